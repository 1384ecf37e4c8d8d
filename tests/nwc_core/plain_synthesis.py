"""Synthesis as the specification words it, one numpy expression after the other: what the fused kernels must give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nwc_core import steps, transform
from nwc_core.basis import COLUMNS, ROWS, SHIFT, Basis
from nwc_core.exact import check_exact
from nwc_core.synthesis import Synthesis

FRACTION = 6


def synthesise(
    points: npt.NDArray[np.int32],
    step: np.float32,
    row_exponent: npt.NDArray[np.int32],
    column_exponent: npt.NDArray[np.int32],
    bases: Sequence[Basis] = (),
    matrix: npt.NDArray[np.int16] | None = None,
) -> npt.NDArray[np.float32]:
    """Weights [m, n] from points [m, n]; arguments as those of `nwc_core.synthesis.Synthesis`."""
    mixes = {basis.axis for basis in bases} | ({COLUMNS} if matrix is not None else set())
    fixed = np.ones((1, 1))
    left = {}
    for axis, exponent, shape in ((ROWS, row_exponent, (-1, 1)), (COLUMNS, column_exponent, (1, -1))):
        least = exponent.min()
        if axis in mixes and (exponent != least).any():
            fixed = fixed * (steps.fixed_power(exponent - least) / (1 << steps.FIXED_BITS)).reshape(shape)
        left[axis] = np.full_like(exponent, least) if axis in mixes else exponent
    values, fraction = points.astype(np.float64), 0
    if fixed.size > 1:
        values, fraction = np.rint(values * fixed * (1 << FRACTION)), FRACTION
    for basis in reversed(bases):
        values, fraction = _coarser(values, fraction)
        values, fraction = undone(basis, values), fraction + SHIFT
    if matrix is not None:
        values, fraction = _coarser(values, fraction)
        values, fraction = transform.invert(values, matrix, np.abs(values).max()), fraction + transform.SCALE_BITS
    scale = np.ldexp(step * steps.power(left[ROWS]), -fraction)
    product: npt.NDArray[np.float32] = scale[:, None] * steps.power(left[COLUMNS])[None, :]
    return values.astype(np.float32) * product


def fused(
    points: npt.NDArray[np.int32],
    step: np.float32,
    row_exponent: npt.NDArray[np.int32],
    column_exponent: npt.NDArray[np.int32],
    bases: Sequence[Basis] = (),
    matrix: npt.NDArray[np.int16] | None = None,
) -> npt.NDArray[np.float32]:
    """The same by the product's kernels."""
    out = np.empty(points.shape, np.float32)
    Synthesis(step, row_exponent, column_exponent, tuple(bases), matrix).place_all(points, out, 1)
    return out


def undone(basis: Basis, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows times Q', or Q times columns, in units of 2^-SHIFT, for integers [m, n]."""
    mixing = basis.mixing()
    check_exact(values, np.inf, mixing.growth)
    inverse = np.eye(basis.size) * float(1 << SHIFT) - mixing.u @ mixing.b
    if basis.axis == ROWS:
        return inverse.T @ values
    return (values.reshape(-1, basis.size) @ inverse).reshape(values.shape)


def _coarser(values: npt.NDArray[np.float64], fraction: int) -> tuple[npt.NDArray[np.float64], int]:
    if fraction <= FRACTION:
        return values, fraction
    return np.rint(np.ldexp(values, FRACTION - fraction)), FRACTION
