"""Entropy tables from textbook distributions: what a learned prior has to beat.

A weight of deviation sigma follows one distribution of variance 1, scaled. The probability of point n = 2k + q given q is
the mass of the cell [n - 1, n + 1], in units of the step: over all n of one parity these cells tile the line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nwc_core.prior import LEVEL_ZERO, OCTAVE, TABLE_LEVELS, Prior

Floats = npt.NDArray[np.float64]
Distribution = Callable[[Floats], Floats]  # cumulative, of mean 0 and variance 1, at points x <= 0

# The fewest with a variance, and so far up that more would hardly differ from a Gaussian.
FREEDOMS = (3, 4, 6, 10, 20)
_REACH = 600  # points either way: beyond the widest table
_FLOOR = 1e-9  # of a probability, below any table's resolution


def gaussian(x: Floats) -> Floats:
    """Standard normal."""
    return 0.5 * np.array([math.erfc(-value / math.sqrt(2)) for value in x])


def laplace(x: Floats) -> Floats:
    """Laplacian."""
    return 0.5 * np.exp(math.sqrt(2) * x)


def student_t(freedom: int) -> Distribution:
    """Student's t with at least 3 degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""

    def cdf(x: Floats) -> Floats:
        angle = np.arctan(x / math.sqrt(freedom - 2))  # x times the deviation of t, over the root of freedom
        sine, cosine = np.sin(angle), np.cos(angle)
        odd = freedom % 2
        term = cosine if odd else np.ones_like(cosine)
        total = term.copy()
        for i in range(1, (freedom - odd) // 2):
            term = term * cosine**2 * (2 * i - 1 + odd) / (2 * i + odd)
            total += term
        inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
        return 0.5 * (1 + inside)

    return cdf


def tables_of(distributions: Sequence[Distribution]) -> Prior:
    """A prior with one shape for each distribution."""
    return Prior.from_pmf([[_masses(cdf, level) for level in range(TABLE_LEVELS)] for cdf in distributions])


def _masses(cdf: Distribution, level: int) -> Floats:
    """[2 _REACH + 1] masses of n in [-_REACH, _REACH] given the parity of n."""
    sigma = 2.0 ** ((level - LEVEL_ZERO) / OCTAVE)
    # On the negative side, where both terms are small and their difference exact; then mirrored.
    edges = np.arange(-_REACH - 1, 1) / sigma
    below = cdf(edges)
    left = below[2:] - below[:-2]  # n = -_REACH ... -1
    zero = 1 - 2 * below[-2]  # [-1, 1]
    masses = np.concatenate([left, [zero], left[::-1]]) + _FLOOR
    for parity in (0, 1):
        masses[parity::2] /= masses[parity::2].sum()
    return masses
