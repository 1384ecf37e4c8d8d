"""How many bits points will take, without coding them: what rate control asks again and again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.kernels import kernel
from nwc_core.prior import LEVELS, ShapeTables, raw_bits

_RAW = raw_bits(np.arange(LEVELS))


@kernel
def _sum(points, level, raw, rate):  # type: ignore[no-untyped-def]
    # Sums side by side: one would wait for itself, and a fixed order keeps the step the same on every machine.
    totals = np.zeros(8)
    span = rate.shape[1] // 2
    for i in range(points.size):
        at = (points[i] >> raw[level[i]]) + span
        totals[i & 7] += rate[level[i], min(max(at, 0), 2 * span - 1)]
    return totals.sum()


def code_length(points: npt.NDArray[np.int32], level: npt.NDArray[np.uint8], tables: ShapeTables) -> float:
    """Bits that the tables spend on [N] points of one level each, escapes as if of one or two bytes."""
    return float(_sum(points, level, _RAW, tables.rate))
