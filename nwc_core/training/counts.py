"""What the real quantiser does to real weights: counts of its points by level.

The trellis search with its rate term moves points about, most at low rates, so the tables are finally fitted to points
that it chose rather than to noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nwc_core.decorrelate import Coefficients
from nwc_core.prior import RATE_SPAN, TABLE_LEVELS, Prior
from nwc_core.rans import MAX_LANES
from nwc_core.scales import levels_of
from nwc_core.trellis import search


def count_points(
    coefficients: Coefficients,
    log2_steps: npt.NDArray[np.float64],
    prior: Prior,
    shape: int,
    n_states: int,
    weights: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """[TABLE_LEVELS, RATE_SPAN] counts of |n| (tables are symmetric), over a sample of the matrix at several steps.

    Args:
        coefficients: of the matrix, decorrelated as the encoder would.
        log2_steps: steps, as log2 of step over root mean square coefficient.
        prior: the tables that weigh the rate, and `shape` which of them.
        n_states: of the trellis.
        weights: size of the sample.
        rng: draws the sample.
    """
    counts = np.zeros(TABLE_LEVELS * RATE_SPAN, np.float32)
    values = coefficients.values
    m, n = values.shape
    rms = float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    rows = np.sort(rng.choice(m, min(m, max(1, weights // n)), replace=False))
    for log2_step in log2_steps + np.log2(rms):
        scales = coefficients.spread.scales(np.full(m, log2_step), np.zeros(n))
        level = levels_of(*scales.axes())[rows].reshape(-1)
        u = (values[rows] * np.float32(2.0**-log2_step)).reshape(-1)
        lanes = int(np.clip(u.size // 512, 1, MAX_LANES))
        points = search(u, level, lanes, n_states, prior.tables[shape])
        points = np.abs(points)
        seen = (level < TABLE_LEVELS) & (points < RATE_SPAN)
        at = level[seen].astype(np.int64) * RATE_SPAN + points[seen]
        counts += np.bincount(at, minlength=counts.size).astype(np.float32)
    return counts.reshape(TABLE_LEVELS, RATE_SPAN)
