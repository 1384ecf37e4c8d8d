"""The learned transform: small, linear, orthonormal, applied to groups of columns, inverted in integers.

A matrix [m, n] is seen as groups of g neighbouring columns (the taps of one convolution kernel). Analysis replaces each
group w by T w; synthesis by T' y. T is learned (`nwc_core.training`), stored in the codec in units of 2^-14, and chosen
per matrix; number 0 is the identity. Linear and orthonormal, so that the error of the coefficients is the error of the
weights and the trellis search stays exact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core import steps
from nwc_core.kernels import kernel

SCALE_BITS = 14
# Points stay below 2^24, entries of T below 2^14 in sum of g = 9 ... 49 terms: with 2^12 of the fixed-point steps this
# leaves 8 octaves of step range inside 63 bits.
MAX_STEP_RANGE = 8 * 8


def analyse(weight: npt.NDArray[np.float32], transform: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Coefficients [m, n] of weights [m, n]; transform [g, g], g divides n."""
    basis = transform.astype(np.float32) / np.float32(1 << SCALE_BITS)
    # einsum, not @: how BLAS adds may depend on its number of threads.
    coefficients: npt.NDArray[np.float32] = np.einsum("ij,kj->ik", weight.reshape(-1, basis.shape[0]), basis)
    return coefficients.reshape(weight.shape)


@kernel
def _synthesise(points, multiplier, transform, scale, out):  # type: ignore[no-untyped-def]
    m, n = points.shape
    g = transform.shape[0]
    for i in range(m):
        row_scale = scale[i]
        for first in range(0, n, g):
            for column in range(g):
                total = np.int64(0)
                for j in range(g):
                    total += np.int64(transform[j, column]) * (np.int64(points[i, first + j]) * multiplier[first + j])
                out[i, first + column] = np.float32(total) * row_scale


def synthesise(
    points: npt.NDArray[np.int32],
    row_step: npt.NDArray[np.float32],
    column_exponent: npt.NDArray[np.int32],
    transform: npt.NDArray[np.int16] | None,
) -> npt.NDArray[np.float32]:
    """Weights [m, n] from points [m, n], bit for bit the same everywhere.

    Without a transform: float32(n) * (row_step * 2^(exponent / 8)), both products rounded once. With one: the sum over the
    group in 64-bit integers, then one conversion and one multiplication.

    Args:
        points: quantisation points.
        row_step: [m] step of each row.
        column_exponent: [n] eighths of an octave by which each column's step is larger.
        transform: [g, g] or None for the identity.
    """
    if transform is None:
        weight = points.astype(np.float32)
        if column_exponent.any():
            weight *= row_step[:, None] * steps.power(column_exponent)[None, :]
        else:
            weight *= row_step[:, None]
        return weight
    least = column_exponent.min()
    multiplier = steps.fixed_power(column_exponent - least)
    scale = np.ldexp(row_step * steps.power(np.array([least]))[0], -(SCALE_BITS + steps.FIXED_BITS))
    out = np.empty(points.shape, np.float32)
    _synthesise(points, multiplier, transform, scale, out)
    return out
