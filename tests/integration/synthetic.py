"""Checkpoints made up for these tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nwc_core.dtypes import from_torch
from nwc_core.lossless import tensor_bytes
from nwc_core.safetensors_header import build_header


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Weights as a network has them: small, with rows of different scale."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) + 0.2
    return (0.05 * scale * torch.randn(shape, generator=generator)).to(dtype)


def safetensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file."""
    header = build_header([(name, from_torch(t.dtype).name, t.shape) for name, t in tensors.items()], {"format": "pt"})
    return header + b"".join(tensor_bytes(t).tobytes() for t in tensors.values())


def small_model(seed: int = 0) -> dict[str, bytes]:
    """Files of a small model: two megabytes in eight tensors, and what lies beside the weights."""
    tensors = {f"layers.{i}.weight": normal(256, 512, seed=seed + i) for i in range(8)}
    tensors["norm.bias"] = normal(512, seed=seed + 99)
    return {
        "config.json": b'{"model_type": "bert"}',
        "model.safetensors": safetensors(tensors),
        "tokenizer.json": b'{"tokens": ["a"]}',
    }
