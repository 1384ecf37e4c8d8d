"""The last stage of decoding: one product with a step and one rounding for each weight, straight to the output's type."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from nwc_core.kernels import kernel

# Weights as decoded: [m, n] float32, or the bits of bfloat16.
Weights = npt.NDArray[np.float32] | npt.NDArray[np.uint16]


def _put(out, i, j, weight):  # type: ignore[no-untyped-def]
    """Write a float32 to an element of `out`, of either type; compiled code only."""
    raise NotImplementedError


@overload(_put)
def _put_as(out, i, j, weight):  # type: ignore[no-untyped-def]  # numba compares its signature with those below
    def exact(out, i, j, weight):  # type: ignore[no-untyped-def]
        out[i, j] = weight

    def rounded(out, i, j, weight):  # type: ignore[no-untyped-def]
        bits = np.float32(weight).view(np.uint32)
        # Half of the last place kept, less one where that place is even: to nearest, ties to even.
        out[i, j] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)

    return rounded if out.dtype == types.uint16 else exact


@kernel
def scale(values, row_step, column_factor, out):  # type: ignore[no-untyped-def]
    """See `dequantise`."""
    m, n = values.shape
    for i in range(m):
        for j in range(n):
            _put(out, i, j, np.float32(values[i, j]) * (row_step[i] * column_factor[j]))  # type: ignore[no-untyped-call]


@kernel
def scale_difference(values, one, others, row_step, column_factor, out):  # type: ignore[no-untyped-def]
    """The same for values * one - others, which are exact integers in float64."""
    m, n = values.shape
    for i in range(m):
        for j in range(n):
            weight = np.float32(values[i, j] * one - others[i, j])
            _put(out, i, j, weight * (row_step[i] * column_factor[j]))  # type: ignore[no-untyped-call]


def dequantise(
    points: npt.NDArray[np.int32] | npt.NDArray[np.float32],
    row_step: npt.NDArray[np.float32],
    column_factor: npt.NDArray[np.float32],
    out: Weights,
) -> None:
    """Fill `out` [m, n] with points [m, n] times (row step [m] times column factor [n]), each product rounded once."""
    scale(points, row_step, column_factor, out)


def place(weights: npt.NDArray[np.float32], out: Weights) -> None:
    """Fill `out` [m, n] with weights [m, n], rounded to its type."""
    m, n = weights.shape
    dequantise(weights, np.ones(m, np.float32), np.ones(n, np.float32), out)
