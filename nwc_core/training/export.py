"""From a trained autoencoder to the coder that a codec file holds, and what that reaches on weights it never saw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nwc_core.prior import MAX_HALF_WIDTH
from nwc_core.reference.coder import ReferenceCoder
from nwc_core.reference.network import Network
from nwc_core.reference.recipe import CHUNK, GAIN_STEP, MAX_GAIN, QUALITIES
from nwc_core.reference.tables import LatentTables
from nwc_core.training.autoencoder import Autoencoder, HalfNetwork
from nwc_core.training.dataset import WeightMatrix

_TESTED = 1 << 14  # weights of each held-out matrix at most; the networks are slow


@torch.no_grad()
def export(model: Autoencoder) -> ReferenceCoder:
    """The coder, exactly as it comes back from a codec file."""
    centre = model.density.medians()
    gains = [2.0 ** (GAIN_STEP * step) for step in range(-MAX_GAIN, MAX_GAIN + 1)]
    return ReferenceCoder(
        _network(model.analysis),
        _network(model.synthesis),
        _half_precision(model.embedding),
        centre.reshape(QUALITIES, CHUNK).astype(np.float16).astype(np.float32),
        LatentTables.from_pmf([model.density.pmf(centre, gain, MAX_HALF_WIDTH) for gain in gains]),
    )


def held_out_levels(coder: ReferenceCoder, matrices: list[WeightMatrix]) -> list[dict[str, Any]]:
    """For every quality level: mean bits per weight, and bits per weight above Shannon's bound for Gaussian weights.

    The second is bits + log2(error / variance) / 2 of each matrix, averaged by size.
    """
    found = []
    for quality in range(QUALITIES):
        bits, gaps, sizes = [], [], []
        for matrix in matrices:
            rows = max(CHUNK, _TESTED // matrix.values.shape[1] // CHUNK * CHUNK)
            values = matrix.values[:rows]
            if not values.any():
                continue
            coded = coder.encode_native(values, quality)
            error = float(np.square(coded.weights - values, dtype=np.float64).mean())
            bits.append(8 * len(coded.data) / values.size)
            gaps.append(bits[-1] + 0.5 * math.log2(error / float(values.var(dtype=np.float64))))
            sizes.append(values.size)
        mean = {"bits": np.average(bits, weights=sizes), "gap": np.average(gaps, weights=sizes)}
        found.append({"quality": quality} | {name: round(float(value), 4) for name, value in mean.items()})
    return found


def _network(half: HalfNetwork) -> Network:
    blocks, norms = list(half.blocks), list(half.norms)
    return Network(
        inner=_half_precision(half.inner.weight),
        inner_bias=_half_precision(half.inner.bias),
        block=np.stack([_half_precision(block.weight) for block in blocks]),
        block_bias=np.stack([_half_precision(block.bias) for block in blocks]),
        norm=np.stack([_half_precision(norm.weight) for norm in norms]),
        norm_bias=np.stack([_half_precision(norm.bias) for norm in norms]),
        outer=_half_precision(half.outer.weight),
        outer_bias=_half_precision(half.outer.bias),
    )


def _half_precision(parameter: Any) -> npt.NDArray[np.float32]:
    """What float16 leaves of a parameter, as float32."""
    return np.asarray(parameter.detach().numpy().astype(np.float16).astype(np.float32))
