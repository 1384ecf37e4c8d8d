"""From quantisation points back to weights: steps, then the matrix's bases and transform, undone in exact integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core import steps, transform
from nwc_core.basis import COLUMNS, ROWS, SHIFT, Basis, Mixing
from nwc_core.dequantise import Weights, dequantise, place
from nwc_core.threads import map_threads

# Steps within an axis that is mixed may differ by this many eighths of an octave: 8 octaves of them, points of 22 bits,
# a basis of SHIFT bits and its sums would leave the 53 bits of an exact integer, but points so large have finer steps.
MAX_STEP_RANGE = 8 * 8
# Worked on at a time: larger arrays come fresh from the operating system, page by page, which takes longer than the sums.
PIECE_WEIGHTS = 1 << 16
_MIN_LINES = 32  # fewer at a time would spend their time reading the vectors of a basis from memory
_FRACTION = 6  # bits below the step that are kept from one stage to the next: an error of 1/64 step costs nothing


def synthesise(
    points: npt.NDArray[np.int32],
    step: np.float32,
    row_exponent: npt.NDArray[np.int32],
    column_exponent: npt.NDArray[np.int32],
    bases: Sequence[Basis | Mixing] = (),
    matrix: npt.NDArray[np.int16] | None = None,
) -> npt.NDArray[np.float32]:
    """Weights [m, n] from points [m, n], bit for bit the same everywhere.

    The step of a point is step * 2^(row exponent / 8) * 2^(column exponent / 8). Where nothing mixes weights, the weight is
    float32(n) * (row step * column factor), both products rounded once. Steps of an axis that a basis or the transform
    mixes multiply before, in fixed point; sums are exact integers, rounded to 2^-_FRACTION steps between stages, and
    converted once at the end.

    Args:
        points: quantisation points.
        step: of the matrix.
        row_exponent: [m] eighths of an octave by which each row's step is larger.
        column_exponent: [n] the same for columns.
        bases: in the order in which analysis applied them, after the transform.
        matrix: the transform [g, g], None for the identity.

    Raises:
        Inexact: points too large for exact sums.
    """
    mixes = {basis.axis for basis in bases} | ({COLUMNS} if matrix is not None else set())
    fixed = np.ones(1)
    free = {}
    for axis, exponent, shape in ((ROWS, row_exponent, (-1, 1)), (COLUMNS, column_exponent, (1, -1))):
        least = np.int32(exponent.min())
        if axis in mixes and (exponent != least).any():
            fixed = fixed * (steps.fixed_power(exponent - least).astype(np.float64) / (1 << steps.FIXED_BITS)).reshape(
                shape
            )
        free[axis] = np.full_like(exponent, least) if axis in mixes else exponent
    scale = step * steps.power(free[ROWS])
    columns = steps.power(free[COLUMNS])
    if not mixes:
        weight = points.astype(np.float32)
        weight *= scale[:, None] * columns[None, :] if column_exponent.any() else scale[:, None]
        return weight
    values, fraction = points.astype(np.float64), 0
    if fixed.size > 1:
        values, fraction = np.rint(values * fixed * (1 << _FRACTION)), _FRACTION
    for basis in reversed(bases):
        values, fraction = _rounded(values, fraction)
        values, fraction = basis.synthesise(values), fraction + SHIFT
    if matrix is not None:
        values, fraction = _rounded(values, fraction)
        values, fraction = transform.invert(values, matrix), fraction + transform.SCALE_BITS
    weight = values.astype(np.float32)
    weight *= np.ldexp(scale, -fraction)[:, None] * columns[None, :]
    return weight


@dataclass(frozen=True)
class Synthesis:
    """What turns the points of one matrix [m, n] into weights; the arguments of `synthesise`, all at once."""

    step: np.float32
    row_exponent: npt.NDArray[np.int32]
    column_exponent: npt.NDArray[np.int32]
    bases: tuple[Basis, ...]
    matrix: npt.NDArray[np.int16] | None

    @cached_property
    def mixed(self) -> set[int]:
        """Axes along which weights are sums over several points."""
        return {basis.axis for basis in self.bases} | ({COLUMNS} if self.matrix is not None else set())

    @cached_property
    def mixings(self) -> tuple[Mixing, ...]:
        """The bases, ready to be applied."""
        return tuple(basis.mixing() for basis in self.bases)

    def place(self, points: npt.NDArray[np.int32], rows: slice, columns: slice, out: Weights) -> None:
        """Fill some rows and columns of `out` [m, n] from their points; all those that are mixed must be among them.

        Raises:
            Inexact: points too large for exact sums.
        """
        exponents, part = (self.row_exponent[rows], self.column_exponent[columns]), out[rows, columns]
        if self.mixed:
            place(synthesise(points, self.step, *exponents, self.mixings, self.matrix), part)
        else:
            dequantise(points, self.step * steps.power(exponents[0]), steps.power(exponents[1]), part)

    def place_all(self, points: npt.NDArray[np.int32], out: Weights, threads: int) -> None:
        """Fill `out` [m, n] from all points, piece by piece where an axis is not mixed. Raises as `place` does."""
        self.mixings  # noqa: B018  made once here, not by every thread
        m, n = points.shape
        if ROWS not in self.mixed:
            height = piece_lines(n)
            pieces = [(slice(first, first + height), slice(None)) for first in range(0, m, height)]
        elif COLUMNS not in self.mixed:
            width = piece_lines(m)
            pieces = [(slice(None), slice(first, first + width)) for first in range(0, n, width)]
        else:
            pieces = [(slice(None), slice(None))]
        map_threads(lambda i: self.place(points[pieces[i]], *pieces[i], out), range(len(pieces)), threads)


def piece_lines(length: int) -> int:
    """Lines of this length to work on at a time."""
    return max(_MIN_LINES, PIECE_WEIGHTS // length)


def _rounded(values: npt.NDArray[np.float64], fraction: int) -> tuple[npt.NDArray[np.float64], int]:
    """Integers in units of 2^-fraction, in coarser units where those keep enough."""
    if fraction <= _FRACTION:
        return values, fraction
    return np.rint(np.ldexp(values, _FRACTION - fraction)), _FRACTION
