"""The rate-distortion loss that trains the transforms and the prior network together.

For a chunk w (one convolution kernel, or any run of a row) of importance alpha the loss is

    alpha |w - w^|^2 / sigma^2 + lambda * bits

with w^ = T'(T w + step * noise) and noise uniform over a cell of two steps. The step follows the importance: with
D = step^2 / 3 and dD/dR = -2 ln 2 D the loss is least at step^2 = 3 lambda / (2 ln 2 alpha), so one codec trained over a
wide range of alpha serves every rate. T stays orthonormal by construction (exponential of a skew-symmetric matrix).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from nwc_core.training.density import PriorNetwork

STEP2 = 3 / (2 * math.log(2))  # step^2 per lambda / alpha


class OrthonormalTransform(nn.Module):
    """T = exp(A - A'), [g, g]."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.skew = nn.Parameter(0.3 * torch.randn(size, size, generator=generator))

    @property
    def size(self) -> int:
        """g."""
        return int(self.skew.shape[0])

    def forward(self) -> torch.Tensor:
        basis: torch.Tensor = torch.linalg.matrix_exp(self.skew - self.skew.T)
        return basis


@dataclass(frozen=True)
class Loss:
    """Means over the weights of one batch: `total` has gradients."""

    total: torch.Tensor
    bits: float
    distortion: float


def scale_levels(coefficients: torch.Tensor, sweeps: int = 2) -> torch.Tensor:
    """log2 of r_i c_j fitted to [m, n], differentiable; the encoder's `Spread.measure`."""
    squares = coefficients.square() + 1e-12
    columns = torch.ones(coefficients.shape[1])
    rows = torch.ones(coefficients.shape[0])
    for _ in range(sweeps):
        rows = (squares / columns).mean(1)
        columns = (squares / rows[:, None]).mean(0)
    return 0.5 * (rows.log2()[:, None] + columns.log2()[None, :])


def rate_distortion(
    network: PriorNetwork,
    basis: torch.Tensor | None,
    weight: torch.Tensor,
    importance: torch.Tensor,
    shape: torch.Tensor,
    rate_weight: float,
    generator: torch.Generator,
) -> Loss:
    """The loss of one matrix.

    Args:
        network: prior.
        basis: [g, g] transform, None for the identity.
        weight: [m, n], root mean square 1.
        importance: [m, n / chunk] alpha of every chunk; chunk is g with a transform.
        shape: scalar, which shape codes it.
        rate_weight: lambda.
        generator: of the noise.
    """
    m, n = weight.shape
    chunk = n // importance.shape[1]
    y = weight if basis is None else (weight.reshape(-1, basis.shape[0]) @ basis.T).reshape(m, n)
    step = (STEP2 * rate_weight / importance).sqrt().repeat_interleave(chunk, 1)
    noise = 2 * torch.rand(weight.shape, generator=generator) - 1
    points = y / step + noise
    bits = network.bits(points, scale_levels(y) - step.log2(), shape)
    decoded = points * step
    if basis is not None:
        decoded = (decoded.reshape(-1, basis.shape[0]) @ basis).reshape(m, n)
    distortion = (weight - decoded).square() * importance.repeat_interleave(chunk, 1)
    total = (distortion + rate_weight * bits).mean() / rate_weight
    return Loss(total, float(bits.detach().mean()), float(distortion.detach().mean()))
