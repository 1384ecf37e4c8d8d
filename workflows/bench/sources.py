"""Memoryless sources of variance 1 whose rate-distortion function is known: what a codec's bytes are held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from nwc_workflows.bench.shannon import Density, Floats, gaussian_rate, solve_curve

_FREEDOM = 5  # degrees of freedom of Student's t: the fewest with a finite variance of the sample variance
_T_SCALE = math.sqrt(_FREEDOM / (_FREEDOM - 2))  # standard deviation of Student's t


@dataclass(frozen=True)
class Source:
    """A source of independent samples, mean 0, variance 1.

    Attributes:
        name: on the command line.
        title: in tables and plots.
        density: up to a constant factor.
        reach: beyond +-reach lies less than 1e-6 of the mass.
        draw: (generator, shape) to float32 samples.
        closed_form: of R(D), where there is one.
    """

    name: str
    title: str
    density: Density
    reach: float
    draw: Callable[[torch.Generator, tuple[int, ...]], torch.Tensor]
    closed_form: Callable[[float], float] | None = None

    def sample(self, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        """Independent float32 samples; equal seeds give equal ones."""
        return self.draw(torch.Generator().manual_seed(seed), shape)

    def rate(self, distortion: float) -> float:
        """R(D): the fewest bits per sample at a mean squared error of `distortion`."""
        return _rate_function(self)(distortion)


@cache  # solving takes a second
def _rate_function(source: Source) -> Callable[[float], float]:
    return source.closed_form or solve_curve(source.density, source.reach)


def _gaussian_density(x: Floats) -> Floats:
    return np.exp(-0.5 * x * x)


def _laplace_density(x: Floats) -> Floats:
    return np.exp(-math.sqrt(2) * np.abs(x))


def _student_density(x: Floats) -> Floats:
    return (1 + (_T_SCALE * x) ** 2 / _FREEDOM) ** (-(_FREEDOM + 1) / 2)


def _draw_gaussian(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _draw_laplace(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    size = torch.empty(shape).exponential_(math.sqrt(2), generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -size, size)


def _draw_student(generator: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    chi_squared = torch.zeros(shape)
    for _ in range(_FREEDOM):
        chi_squared += torch.randn(shape, generator=generator).square_()
    normal = torch.randn(shape, generator=generator)
    return normal / (chi_squared / _FREEDOM).sqrt_() / _T_SCALE


SOURCES = {
    source.name: source
    for source in (
        Source("gaussian", "Gaussian", _gaussian_density, 8.0, _draw_gaussian, gaussian_rate),
        Source("laplace", "Laplacian", _laplace_density, 12.0, _draw_laplace),
        Source("student-t", f"Student's t, {_FREEDOM} degrees of freedom", _student_density, 30.0, _draw_student),
    )
}
