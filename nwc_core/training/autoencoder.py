"""The published autoencoder and its rate-distortion loss, as modules to train.

Analysis and synthesis are alike: Linear 16 to `width`, `depth` residual blocks x + ReLU(LayerNorm(Linear(x))), each
multiplied by the embedding of the quality level, Linear `width` to 16. Both share the embedding. The loss of a chunk is

    lambda |w - w^|^2 + (rate weight of its quality level) * bits        both per weight

with uniform noise in place of rounding (Balle et al. 2017).

Training starts as a scalar quantiser: the linear path is the identity but for the scale that is best for each quality
level at high rate, and the residual branches are almost silent. From a random start the network would need the
published 200,000 steps for the higher levels to become exact enough; from here it needs a hundredth of them.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from nwc_core.reference.recipe import CHUNK, NORM_EPSILON, QUALITIES, RATE_WEIGHTS
from nwc_core.training.bottleneck import Bottleneck

_SILENT = 0.02  # initial scale of the residual branches: they can learn, and hardly disturb


class HalfNetwork(nn.Module):
    """Analysis or synthesis: [..., CHUNK] to [..., CHUNK]."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.inner = nn.Linear(CHUNK, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width, NORM_EPSILON) for _ in range(depth))
        self.outer = nn.Linear(width, CHUNK)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = (x + torch.relu(norm(block(x)))) * embedding
        y: torch.Tensor = self.outer(x)
        return y

    @torch.no_grad()
    def start_linear(self, path: slice) -> None:
        """Make the linear path the identity, through the features `path` alone."""
        features = path.stop - path.start
        basis = torch.linalg.qr(torch.randn(features, CHUNK)).Q  # [features, CHUNK], orthonormal columns
        gain = math.sqrt(features / CHUNK)  # features of unit variance
        self.inner.weight[path] = gain * basis
        self.outer.weight.zero_()
        self.outer.weight[:, path] = basis.T / gain
        self.inner.bias.zero_()
        self.outer.bias.zero_()
        for norm in self.norms:
            norm.weight.fill_(_SILENT)  # type: ignore[operator]


class Autoencoder(nn.Module):
    """Both halves, the quality embedding, and one density for every quality level and latent channel."""

    def __init__(self, width: int, depth: int, distortion_weight: float) -> None:
        """`distortion_weight` is the lambda of the loss; `width` is even and at least 2 * CHUNK."""
        super().__init__()
        self.distortion_weight = distortion_weight
        self.register_buffer("rate_weights", torch.tensor(RATE_WEIGHTS), persistent=False)
        self.analysis = HalfNetwork(width, depth)
        self.synthesis = HalfNetwork(width, depth)
        # At high rate the loss is least at D = rate weight / (2 ln 2 lambda), and rounding a latent of scale s leaves
        # an error of 1 / (12 s^2).
        scale = [math.sqrt(2 * math.log(2) * distortion_weight / (12 * weight)) for weight in RATE_WEIGHTS]
        self.density = Bottleneck(torch.tensor(scale).repeat_interleave(CHUNK))
        embedding = torch.empty(QUALITIES, width)
        half = width // 2
        for quality, value in enumerate(scale):
            embedding[quality, :half] = value ** (1 / depth)
            embedding[quality, half:] = value ** (-1 / depth)
        self.embedding = nn.Parameter(embedding)
        self.analysis.start_linear(slice(0, half))
        self.synthesis.start_linear(slice(half, width))

    def forward(self, chunks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean squared error, bits per weight), both [QUALITIES], of chunks [QUALITIES, count, CHUNK] under noise."""
        embedding = self.embedding[:, None]
        latents = self.analysis(chunks, embedding)
        latents = latents + torch.rand(latents.shape, generator=generator) - 0.5
        decoded = self.synthesis(latents, embedding)
        distortion = (decoded - chunks).square().mean((1, 2))
        channels = latents.transpose(1, 2).reshape(QUALITIES * CHUNK, -1)
        return distortion, self.density.bits(channels).reshape(QUALITIES, -1).mean(1)

    def loss(self, distortion: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        """Mean over the quality levels."""
        weights: torch.Tensor = self.rate_weights  # type: ignore[assignment]
        return (self.distortion_weight * distortion + weights * rate).mean()
