"""Checkpoints whose best code is known, and trainings short enough for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from checkpoints import save

from nwc_core.codec import Codec
from nwc_core.training.config import TrainingConfig
from nwc_core.transform import SCALE_BITS
from nwc_workflows.bench.sources import SOURCES

QUICK = TrainingConfig(steps=4, rounds=1, fit_steps=16, shapes=2, weights=1024)


def checkpoint(folder: Path, name: str, **tensors: torch.Tensor) -> Path:
    """A checkpoint of these tensors, in a folder of that name."""
    return save(folder / name / "model.safetensors", tensors).parent


def samples(source: str, *shape: int, seed: int = 0) -> torch.Tensor:
    """Independent, of variance 1."""
    return SOURCES[source].sample(shape, seed)


def kernels(codec: Codec, deviations: np.ndarray, out: int, inputs: int) -> torch.Tensor:
    """Gaussian kernels of 3x3 whose principal axes are the codec's first transform, with these deviations along them."""
    y = np.random.default_rng(0).standard_normal((out * inputs, 9)) * deviations
    weight = y @ (codec.transforms[0].astype(np.float64) / (1 << SCALE_BITS))
    return torch.from_numpy(weight.astype(np.float32).reshape(out, inputs, 3, 3))
