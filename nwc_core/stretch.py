"""One level's frequencies predicted from the level before: nearly the same density, an eighth of an octave wider.

The frequency of point n is a density at n times a cell's width, both in units of the step, so a level further it is that of
n 2^(-1/8), times 2^(-1/8); between points a cubic is laid through four neighbours. What is left of trained
tables takes 1.6 bits for each frequency once compressed; with a straight line through two neighbours, 12 % more. In integers:
every machine predicts the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.prior import TOTAL

_UNIT_BITS = 10
_UNIT = 1 << _UNIT_BITS
_STRETCH = 939  # 2^(-1/8) in units of 2^-10: 1e-5 off, a thousandth of a point at the widest table's end
_DIVISOR = 6 * _UNIT**4  # of the cubic's weights, 6 * _UNIT^3, and of the stretch

Integers = npt.NDArray[np.int64]


class Stretch:
    """Predicts the points n = 2, 3, ... of tables with up to `size` points from those of the level before.

    With x = n 2^(-1/8), i = floor(x), t = x - i: the cubic through points i - 1 ... i + 2 at t, times 2^(-1/8).
    """

    def __init__(self, size: int) -> None:
        x = _STRETCH * np.arange(2, size, dtype=np.int64)
        t, u = x & _UNIT - 1, _UNIT
        # Lagrange's polynomials of -1, 0, 1, 2, times 6 u^3.
        weights = (
            -t * (t - u) * (t - 2 * u),
            3 * (t + u) * (t - u) * (t - 2 * u),
            -3 * (t + u) * t * (t - 2 * u),
            (t + u) * t * (t - u),
        )
        taps = (x >> _UNIT_BITS) + np.arange(-1, 3)[:, None]
        self._weights = np.where(taps < size, np.array(weights), 0)  # behind the widest table all points are 0
        self._taps = np.minimum(taps, size - 1)

    def __call__(self, before: Integers) -> Integers:
        """[shapes, size - 2] from [shapes, size], zero where a table ends. Nothing overflows if no point is above TOTAL."""
        total = (self._weights * before[:, self._taps]).sum(1)
        predicted: Integers = (_STRETCH * total + _DIVISOR // 2) // _DIVISOR
        return predicted.clip(1, TOTAL)
