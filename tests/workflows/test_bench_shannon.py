"""Rate-distortion functions: against closed forms, bounds, and a slow plain implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nwc_workflows.bench.shannon import RateDistortionCurve, gaussian_rate, solve_curve
from nwc_workflows.bench.sources import SOURCES, Source

DISTORTIONS = [2.0**-exponent for exponent in (2.2, 3.0, 4.1, 6.0, 8.0, 11.3, 12.0, 16.0, 18.0)]


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def source(request: pytest.FixtureRequest) -> Source:
    return request.param  # type: ignore[no-any-return]


def entropy(source: Source) -> float:
    """Differential entropy in bits, by summing."""
    step = 0.001
    x = np.arange(-200, 200, step)
    p = source.density(x)
    p /= p.sum() * step
    return float(-(p * np.log2(np.maximum(p, 1e-300))).sum() * step)


def test_densities_have_variance_one_and_reach_far_enough(source: Source) -> None:
    step = 0.001
    x = np.arange(-200, 200, step)
    p = source.density(x)
    p /= p.sum()
    assert float(p @ x**2) == pytest.approx(1, abs=1e-4)
    assert p[np.abs(x) > source.reach].sum() < 1e-6


def test_samples_follow_the_density(source: Source) -> None:
    x = source.sample((1000, 500), 1).double()
    assert torch.equal(x, source.sample((1000, 500), 1).double())
    assert not torch.equal(x, source.sample((1000, 500), 2).double())
    assert float(x.mean()) == pytest.approx(0, abs=0.01)
    assert float(x.square().mean()) == pytest.approx(1, abs=0.02)
    # The average code length under the density is its entropy, which only the right shape gives.
    step = 0.001
    total = source.density(np.arange(-200, 200, step)).sum() * step
    length = -np.log2(source.density(x.numpy().reshape(-1)) / total).mean()
    assert float(length) == pytest.approx(entropy(source), abs=0.005)


def test_gaussian_curve_is_the_closed_form() -> None:
    curve = solve_curve(SOURCES["gaussian"].density, SOURCES["gaussian"].reach)
    for distortion in [0.8, 0.5, 0.3, *DISTORTIONS, 2.0**-25]:
        assert curve(distortion) == pytest.approx(gaussian_rate(distortion), abs=1e-4)
    assert curve(1.0) == curve(3.0) == 0


def test_between_shannons_lower_bound_and_the_gaussian(source: Source) -> None:
    h = entropy(source)
    for distortion in DISTORTIONS:
        bound = h - 0.5 * math.log2(2 * math.pi * math.e * distortion)
        assert bound - 2e-4 <= source.rate(distortion) <= gaussian_rate(distortion) + 1e-9
    # The bound is met at high rates, by any source with a density.
    assert source.rate(2.0**-16) == pytest.approx(h - 0.5 * math.log2(2 * math.pi * math.e * 2.0**-16), abs=2e-4)


def test_convex_and_falling(source: Source) -> None:
    x = np.exp2(np.linspace(-18, -1, 400))
    rates = np.array([source.rate(float(distortion)) for distortion in x])
    slopes = np.diff(rates) / np.diff(x)
    assert (slopes < 0).all()
    assert (np.diff(slopes) > -1e-6 * np.abs(slopes[1:])).all()


@pytest.mark.parametrize("name", ["laplace", "student-t"])
def test_plain_iteration_agrees(name: str) -> None:
    """Blahut's iteration as in the textbook: a matrix, a uniform start, a coarse grid, a low rate."""
    source, slope = SOURCES[name], 1 / (2 * 0.45**2)
    x = np.arange(-8, 8.001, 0.05)
    p = source.density(x)
    p /= p.sum()
    squares = (x[:, None] - x[None, :]) ** 2
    kernel = np.exp(-slope * squares)
    q = np.full(x.size, 1 / x.size)
    for _ in range(2000):
        q *= (p / (kernel @ q)) @ kernel
    joint = (p / (kernel @ q))[:, None] * kernel * q[None, :]
    distortion = float((joint * squares).sum())
    rate = float((joint * np.log2(np.maximum(joint, 1e-300) / (p[:, None] * q[None, :] + 1e-300))).sum())
    assert 0.8 < rate < 1.5
    variance = float(p @ x**2)  # of the source cut off at 8
    assert source.rate(distortion / variance) == pytest.approx(rate, abs=0.01)


def test_points_are_joined_with_their_slopes() -> None:
    """A curve whose true form is a cubic in log D is reproduced between its points."""

    def rate(x: float) -> float:
        return -0.5 * x + 0.01 * x**3 / 100

    def slope(x: float) -> float:
        return -0.5 + 0.03 * x**2 / 100

    x = np.array([-8.0, -5.0, -1.0])
    curve = RateDistortionCurve(x, np.array([rate(v) for v in x]), np.array([slope(v) for v in x]))
    for value in (-7.9, -6.0, -5.0, -3.3, -1.0):
        assert curve(2.0**value) == pytest.approx(rate(value), abs=1e-12)
    assert curve(2.0**-9) == pytest.approx(rate(-8) - slope(-8), abs=1e-12)
    assert curve(2.0**-0.5) == pytest.approx(rate(-1) / 2, abs=1e-12)
