"""Shannon's rate-distortion function R(D) of a memoryless source of variance 1 under squared error.

For a Gaussian it is 1/2 log2(1/D). For others no closed form is known: Blahut's iteration (Blahut 1972; Cover and
Thomas, Elements of Information Theory, 10.8) finds the point of the curve at each of many slopes on a grid that is
finer than the square root of the distortion, and cubic pieces with those very slopes join the points.

From 1.5 bits up the result is within 0.001 bit of the true function, from 2.5 bits up within 0.0001. The iteration comes
from above, so a codec's distance to the curve is, if anything, stated too small by this much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Density = Callable[[Floats], Floats]

# The curve is solved at these square roots of half an inverse slope; sigma^2 = D wherever Shannon's lower bound is met.
_SIGMAS = 2.0 ** np.arange(-0.25, -9.5, -0.5)
# Sums over a grid of half of sigma replace integrals to ten digits, where nothing is narrower than sigma. The cap is
# for sources that are: the kink of a Laplacian costs 0.002 bit at twice this.
_GRID_PER_SIGMA, _WIDEST_GRID = 0.5, 0.008
_KERNEL_SIGMAS = 7.0
_MAX_ITERATIONS, _SMALLEST_GAIN = 400, 2e-7  # bits per iteration: what is left to gain is then below 0.001 bit


@dataclass(frozen=True, eq=False)
class RateDistortionCurve:
    """R(D) through solved points.

    Attributes:
        log2_distortion: [points] rising; 0 is the variance of the source.
        bits: [points] R there.
        slope: [points] dR / d log2 D there, below 0.
    """

    log2_distortion: Floats
    bits: Floats
    slope: Floats

    def __call__(self, distortion: float) -> float:
        """Bits per sample at a mean squared error, in units of the source's variance."""
        x = math.log2(distortion)
        known, bits, slope = self.log2_distortion, self.bits, self.slope
        if x >= 0:
            return 0.0
        if x <= known[0]:  # Shannon's lower bound, which is parallel, is met
            return float(bits[0] + slope[0] * (x - known[0]))
        if x >= known[-1]:  # below about 0.3 bit: R is convex, the chord to R(1) = 0 a little above it
            return float(bits[-1] * x / known[-1])
        i = int(np.searchsorted(known, x)) - 1
        width = known[i + 1] - known[i]
        t = (x - known[i]) / width
        hermite = (
            (1 + 2 * t) * (1 - t) ** 2 * bits[i]
            + t * (1 - t) ** 2 * width * slope[i]
            + t**2 * (3 - 2 * t) * bits[i + 1]
            - t**2 * (1 - t) * width * slope[i + 1]
        )
        return float(hermite)


def gaussian_rate(distortion: float) -> float:
    """R(D) of a Gaussian: max(0, 1/2 log2(1/D)) bits per sample; D in units of the variance."""
    return max(0.0, -0.5 * math.log2(distortion))


def solve_curve(density: Density, reach: float) -> RateDistortionCurve:
    """R(D) by Blahut's iteration.

    Args:
        density: of the source, of variance 1 and mean 0; a constant factor does not matter.
        reach: the source is cut off beyond this; it should have less than 1e-6 of its mass there.
    """
    points = np.array([_solve_slope(density, reach, float(sigma)) for sigma in _SIGMAS[::-1]])
    return RateDistortionCurve(points[:, 0], points[:, 1], points[:, 2])


def _solve_slope(density: Density, reach: float, sigma: float) -> tuple[float, float, float]:
    """(log2 D, R, dR / d log2 D) where dR/dD = -1 / (2 sigma^2) nats."""
    grid = min(_GRID_PER_SIGMA * sigma, _WIDEST_GRID)
    n = math.ceil(reach / grid)
    p = density(grid * np.arange(-n, n + 1, dtype=np.float64))
    p /= p.sum()
    taps = math.ceil(_KERNEL_SIGMAS * sigma / grid)
    squares = (grid * np.arange(-taps, taps + 1)) ** 2
    kernel = np.exp(-squares / (2 * sigma**2))
    q = p.copy()  # of the reproductions
    before = math.inf
    for _ in range(_MAX_ITERATIONS):
        mixed = np.convolve(q, kernel, "same")
        # R + D / (2 sigma^2 ln 2), which every iteration lowers
        lagrangian = -float(p @ np.log2(mixed))
        if before - lagrangian < _SMALLEST_GAIN:
            break
        before = lagrangian
        q *= np.convolve(p / mixed, kernel, "same")
    distortion = float(p / mixed @ np.convolve(q, kernel * squares, "same"))
    steepness = distortion / (2 * sigma**2)
    return math.log2(distortion), lagrangian - steepness / math.log(2), -steepness
