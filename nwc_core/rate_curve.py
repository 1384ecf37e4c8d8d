"""What rate a tensor takes at a given price of error: what rates are allocated over the tensors of a model by.

All tensors together have the least loss at a size where the last bit spent on any of them lowers the loss by the same
amount. With steps as `nwc_core.importance` sets them, an error then costs the same everywhere: step_ij^2 rows_i d_j = theta, in
every row and column of every tensor. The rate at theta is the prior's own entropy over the tensor's levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.problem import Problem

RATES = np.arange(1, 49) / 4  # bits per weight, 0.25 to 12


@dataclass(frozen=True, eq=False)
class RateCurve:
    """Rate and price of error of one tensor.

    Attributes:
        numel: weights.
        log2_theta: [len(RATES)] decreasing: log2 of theta at each of RATES.
        alone: the same of the whole tensor, where this is the curve of its difference to a base; None elsewhere.
    """

    numel: int
    log2_theta: npt.NDArray[np.float64]
    alone: npt.NDArray[np.float64] | None = None

    def bits_at(self, log2_theta: float) -> float:
        """Bits per weight at this theta; at least the first of RATES, at most the last."""
        return float(np.interp(-log2_theta, -self.log2_theta, RATES))

    def log2_theta_at(self, bits: float) -> float:
        """log2 of theta at this rate, inside the range of RATES."""
        return float(np.interp(bits, RATES, self.log2_theta))

    def less(self, log2_theta: float) -> RateCurve:
        """The same with errors in another unit: that theta becomes 1."""
        alone = None if self.alone is None else self.alone - log2_theta
        return RateCurve(self.numel, self.log2_theta - log2_theta, alone)

    def without_base(self) -> RateCurve:
        """The curve of the tensor alone."""
        return self if self.alone is None else RateCurve(self.numel, self.alone)


def curve_of(problems: list[Problem]) -> RateCurve:
    """The curve of a tensor's matrices together, which have one size."""
    size = problems[0].coefficients.size
    curves = [[_log2_theta(problem, bits) for bits in RATES] for problem in problems]
    # At one rate each matrix has a theta of its own: the mean is what they share, as rates are all but linear in it.
    log2_theta = np.minimum.accumulate(np.mean(curves, axis=0) - 1e-9 * np.arange(RATES.size))
    return RateCurve(size * len(problems), log2_theta)


def _log2_theta(problem: Problem, bits: float) -> float:
    step = problem.coefficients.step_for(0, bits - problem.side_bits)
    return 2 * math.log2(step) + problem.log2_weight
