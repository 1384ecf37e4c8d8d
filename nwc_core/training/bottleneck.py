"""A factorised entropy bottleneck: one learned density for each channel.

The cumulative distribution of a channel is a small monotone network (Balle et al. 2018, "Variational image compression
with a scale hyperprior", appendix 6.1): positive matrices and slopes that never fall make it rise everywhere.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

_HIDDEN = (3, 3, 3)
_FLOOR = 1e-9  # of a probability; below any table's resolution


class Bottleneck(nn.Module):
    """Densities of latents; `scale` [channels] is about how wide each is at first."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        channels = scale.numel()
        sizes = (1, *_HIDDEN, 1)
        layers = len(sizes) - 1
        each = scale ** (1 / layers)
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            entry = torch.log(torch.expm1(1 / each / fan_out))  # softplus of it is 1 / each / fan_out
            self.matrices.append(nn.Parameter(entry[:, None, None].repeat(1, fan_out, fan_in)))
            self.biases.append(nn.Parameter(torch.rand(channels, fan_out, 1) - 0.5))
            if layer < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the cumulative distribution at x, both [channels, count]."""
        h = x[:, None]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            h = nn.functional.softplus(matrix) @ h + bias
            if layer < len(self.factors):
                h = h + torch.tanh(self.factors[layer]) * torch.tanh(h)
        return h[:, 0]

    def bits(self, latents: torch.Tensor) -> torch.Tensor:
        """Code length of latents [channels, count]: minus log2 of the mass of the cell of width 1 around each."""
        return -torch.log2(self._mass(latents - 0.5, latents + 0.5) + _FLOOR)

    def _mass(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        a, b = self.logits(low), self.logits(high)
        # In the upper half both sigmoids are near 1 and their difference would vanish: mirror it.
        sign = 1 - 2 * (a + b > 0).to(a.dtype)
        return (torch.sigmoid(sign * b) - torch.sigmoid(sign * a)).abs()

    @torch.no_grad()
    def medians(self) -> npt.NDArray[np.float64]:
        """[channels] where the cumulative distribution is one half."""
        exact = self._double()
        channels = exact.matrices[0].shape[0]
        low, high = torch.full((channels, 1), -1e4).double(), torch.full((channels, 1), 1e4).double()
        for _ in range(60):
            middle = (low + high) / 2
            below = exact.logits(middle) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, 0].numpy()

    @torch.no_grad()
    def pmf(self, centre: npt.NDArray[np.float64], gain: float, reach: int) -> npt.NDArray[np.float64]:
        """[channels, 2 * reach + 1] probabilities of k in [-reach, reach] for latents round(gain * (y - centre))."""
        exact = self._double()
        edges = torch.arange(-reach, reach + 2).double() - 0.5
        at = torch.from_numpy(centre)[:, None] + edges[None, :] / gain
        return exact._mass(at[:, :-1], at[:, 1:]).numpy()

    def _double(self) -> Bottleneck:
        return copy.deepcopy(self).double()
