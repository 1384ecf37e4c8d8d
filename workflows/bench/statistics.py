"""Means over tensors with their uncertainty, and rates compared at equal error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nwc_workflows.bench.measure import Measurement

CONFIDENCE = 0.95
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A mean over tensors and its bootstrap confidence interval: tensors are drawn again with replacement.

    With a single tensor there is nothing to draw from: low = high = mean. Without any, all are NaN.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Mean over tensors, plain or weighted (by the tensors' sizes), with a 95 % percentile bootstrap interval.

    The draws are seeded: equal input gives an equal interval.
    """
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    drawn = _drawn(x.size)
    means = drawn @ (w * x) / (drawn @ w)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(w @ x / w.sum()), float(low), float(high))


@lru_cache(maxsize=2)
def _drawn(count: int) -> npt.NDArray[np.float64]:
    """[_RESAMPLES, count] how often each resample draws each tensor."""
    drawn = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    return drawn.astype(np.float64)


def rate_at(mse: float, points: Sequence[Measurement]) -> float:
    """The rate at which a codec would have this error, from measurements of it at two rates or more.

    Rate is nearly linear in log D: it is interpolated between two measurements, and beyond the outermost the nearest
    piece is continued. Measurements one bit apart give it to some thousandths of a bit. NaN beyond a codec's own
    rates, which it cannot leave, and where the error does not move with the rate, as at the rounding of the tensor's type.
    """
    bits_of = {math.log2(point.mse): point.bits for point in points if point.mse > 0}
    x = sorted(bits_of)
    if mse <= 0 or len(x) < 2:
        return math.nan
    at = math.log2(mse)
    if points[0].wanted is None and not x[0] <= at <= x[-1]:
        return math.nan
    i = min(max(int(np.searchsorted(x, at)), 1), len(x) - 1)
    share = (at - x[i - 1]) / (x[i] - x[i - 1])
    return bits_of[x[i - 1]] + share * (bits_of[x[i]] - bits_of[x[i - 1]])
