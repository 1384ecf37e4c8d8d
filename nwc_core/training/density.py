"""The prior network: which distribution the points of one level follow.

Given s = sigma / step and a shape embedding, a small network emits a zero-mean mixture of Gaussians. The probability of
point n = 2k + q given q is the mass of the cell [n - 1, n + 1] in units of the step: over all n of one parity these
cells tile the line, so both tables sum to 1, and the same formula holds for n plus uniform noise, which is what the
transform is trained with (Balle et al. 2017, "End-to-end optimized image compression", section 3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nwc_core.prior import LEVEL_ZERO, OCTAVE, TABLE_LEVELS

_COMPONENTS = 6
_EMBEDDING = 8
_HIDDEN = 64
_FLOOR = 1e-9  # of a probability; below any table's resolution


class PriorNetwork(nn.Module):
    """Mixture parameters by (log2 s, shape)."""

    def __init__(self, shapes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shapes, _EMBEDDING)
        self.layers = nn.Sequential(
            nn.Linear(1 + _EMBEDDING, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, 2 * _COMPONENTS),
        )
        with torch.no_grad():
            last = self.layers[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            # Start as a spread of scales around sigma: components that start equal would stay so.
            last.bias[_COMPONENTS:] = torch.linspace(-1.0, 1.0, _COMPONENTS)

    def mixture(self, log2_s: torch.Tensor, shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(log weights, log2 scales), both [..., components]; scales in units of the step."""
        log2_s, shape = torch.broadcast_tensors(log2_s, shape)  # type: ignore[no-untyped-call]
        x = torch.cat([log2_s[..., None] / 4, self.embedding(shape)], -1)
        weights, scales = self.layers(x).chunk(2, -1)
        return torch.log_softmax(weights, -1), log2_s[..., None] + scales

    def bits(self, n: torch.Tensor, log2_s: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
        """Code length in bits of points n, or n plus noise, given their parity; arguments broadcast."""
        return code_length(n, *self.mixture(log2_s, shape))

    @torch.no_grad()
    def pmf(self, reach: int) -> list[list[npt.NDArray[np.float64]]]:
        """[shapes][TABLE_LEVELS] arrays over n in [-reach, reach], for `Prior.from_pmf`."""
        n = torch.arange(-reach, reach + 1, dtype=torch.float32)
        out = []
        for shape in range(self.embedding.num_embeddings):
            rows = []
            for level in level_log2_s():
                p = torch.exp2(-self.bits(n, level, torch.tensor(shape))).double().numpy()
                for parity in (0, 1):
                    p[(reach + parity) % 2 :: 2] /= p[(reach + parity) % 2 :: 2].sum()
                rows.append(p)
            out.append(rows)
        return out


def code_length(n: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Bits of points n [...] given their parity, under mixtures as `PriorNetwork.mixture` gives them."""
    # Measured from the far tail on both sides of zero, where erfc is small and exact.
    z = n.abs()[..., None]
    inverse = torch.exp2(-scales) * 0.7071067811865476
    mass = 0.5 * (torch.erfc((z - 1) * inverse) - torch.erfc((z + 1) * inverse))
    return -torch.log2((weights.exp() * mass).sum(-1) + _FLOOR)


def level_log2_s() -> torch.Tensor:
    """[TABLE_LEVELS] log2 of sigma / step at every level."""
    return (torch.arange(TABLE_LEVELS, dtype=torch.float32) - LEVEL_ZERO) / OCTAVE
