"""Tables from textbook distributions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from nwc_core.prior import LEVEL_ZERO, OCTAVE
from nwc_workflows.bench.hand_made import FREEDOMS, Distribution, gaussian, laplace, student_t, tables_of
from nwc_workflows.bench.sources import SOURCES

Floats = npt.NDArray[np.float64]


def gaussian_density(x: Floats) -> Floats:
    return np.exp(-0.5 * x * x)


def laplace_density(x: Floats) -> Floats:
    return np.exp(-math.sqrt(2) * np.abs(x))


def student_density(freedom: int) -> Callable[[Floats], Floats]:
    """Of t itself, stretched to variance 1."""
    scale = math.sqrt(freedom / (freedom - 2))
    return lambda x: (1 + (scale * x) ** 2 / freedom) ** (-(freedom + 1) / 2)


@pytest.mark.parametrize(
    ("cdf", "density"),
    [
        (gaussian, gaussian_density),
        (laplace, laplace_density),
        *((student_t(n), student_density(n)) for n in (*FREEDOMS, 5)),
    ],
)
def test_distributions_are_integrals_of_their_densities(cdf: Distribution, density: Callable[[Floats], Floats]) -> None:
    x = np.linspace(-1000, 0, 2_000_001)
    y = density(x)
    below = np.concatenate([[0], np.cumsum((y[1:] + y[:-1]) / 2)])
    below *= 0.5 / below[-1]
    some = np.flatnonzero(x >= -12)[::997]
    assert np.abs(cdf(x[some]) - below[some]).max() < 1e-6
    near = x[x >= -400]  # t with 3 degrees of freedom has 0.1 % of its variance beyond
    mass = np.diff(cdf(near))
    assert 2 * float(mass @ near[:-1] ** 2) == pytest.approx(1, abs=0.005)


def test_tables_code_their_own_source_best() -> None:
    prior = tables_of([gaussian, student_t(5), laplace])
    level = LEVEL_ZERO + 2 * OCTAVE  # sigma is four steps
    for best, name in enumerate(("gaussian", "student-t", "laplace")):
        samples = 4 * SOURCES[name].sample((200_000,), 0).double().numpy()
        points = 2 * np.rint(samples / 2).astype(np.int64)  # q = 0
        bits = [float(tables.rate[level, points + 256].mean()) for tables in prior.tables]
        assert int(np.argmin(bits)) == best
    # The worst match costs about what the difference of the entropies says: 0.104 bit for a Gaussian's tables on a Laplacian.
    assert bits[0] - bits[2] == pytest.approx(0.104, abs=0.02)
