"""Figures with 95 % percentile bootstrap intervals, over the units (windows, texts, images) of the data.

Every figure is a function of sums over units. All figures of a comparison see the same draws, so a difference between
two models is a paired one, and the draws are seeded: equal input gives equal intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0

Array = npt.NDArray[np.float64]
Figure = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True)
class Interval:
    """A figure of the data at hand, and between which bounds it would be on other data like it."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Sums over resampled units.

    Args:
        columns: by name, one value per unit, [units]; all of the same length, at least 1.
    """

    def __init__(self, columns: Mapping[str, npt.ArrayLike]) -> None:
        self._names = list(columns)
        table = np.stack([np.asarray(column, np.float64) for column in columns.values()])  # [columns, units]
        units = table.shape[1]
        self._whole = table.sum(1)
        self._drawn = np.empty((len(self._names), RESAMPLES))
        rng = np.random.default_rng(_SEED)
        for i in range(RESAMPLES):  # one at a time: [RESAMPLES, units] counts would not fit for a million images
            self._drawn[:, i] = table @ np.bincount(rng.integers(units, size=units), minlength=units)

    def interval(self, figure: Figure) -> Interval:
        """A figure and its interval.

        Args:
            figure: computes it from the sums by name: from arrays of any shape, elementwise.
        """
        value = float(figure(dict(zip(self._names, self._whole, strict=True))))
        drawn = figure(dict(zip(self._names, self._drawn, strict=True)))
        bounds = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(drawn, bounds, method="inverted_cdf")  # between infinities nothing can be interpolated
        return Interval(value, float(low), float(high))
