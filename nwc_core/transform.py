"""Learned transforms: small, linear, orthonormal, applied to groups of columns, inverted in integers.

A matrix [m, n] is seen as groups of g neighbouring columns (the taps of one convolution kernel). Analysis replaces each
group w by T w; synthesis by T' y. T is learned (`nwc_core.training`), stored in the codec in units of 2^-14, and chosen
per matrix; number 0 is the identity. Linear and orthonormal, so that the error of the coefficients is the error of the
weights and the trellis search stays exact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.exact import Integers, check_exact

SCALE_BITS = 14


def analyse(weight: npt.NDArray[np.float32], transform: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Coefficients [m, n] of weights [m, n]; transform [g, g], g divides n."""
    basis = transform.astype(np.float32) / np.float32(1 << SCALE_BITS)
    # einsum, not @: how BLAS adds may depend on its number of threads.
    coefficients: npt.NDArray[np.float32] = np.einsum("ij,kj->ik", weight.reshape(-1, basis.shape[0]), basis)
    return coefficients.reshape(weight.shape)


def growth(transform: npt.NDArray[np.int16]) -> float:
    """By how much `invert` can enlarge the greatest magnitude."""
    return float(np.abs(transform.astype(np.float64)).sum(0).max())


def invert(values: Integers, transform: npt.NDArray[np.int16], peak: float) -> npt.NDArray[np.float64]:
    """Groups of integers [m, n], none above `peak`, times T, in units of 2^-SCALE_BITS; exact.

    Raises:
        Inexact: the integers are too large.
    """
    matrix = transform.astype(np.float64)
    check_exact(values, peak, growth(transform))
    weights: npt.NDArray[np.float64] = values.reshape(-1, matrix.shape[0]) @ matrix
    return weights.reshape(values.shape)
