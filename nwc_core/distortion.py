"""The error of a decoded tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.kernels import kernel


@kernel
def _squared_error(a, b):  # type: ignore[no-untyped-def]
    # Sums side by side: one would wait for itself, and a fixed order gives every machine the same figure.
    totals = np.zeros(16)
    for i in range(a.size):
        difference = np.float64(a[i]) - np.float64(b[i])
        totals[i & 15] += difference * difference
    return totals.sum()


def mean_squared_error(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Mean of (a - b)^2 over contiguous arrays of one shape, summed in float64."""
    return float(_squared_error(a.reshape(-1), b.reshape(-1))) / a.size
