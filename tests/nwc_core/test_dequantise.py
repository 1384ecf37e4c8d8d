"""Points times steps, rounded once to each type, as numpy and torch round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nwc_core.dequantise import dequantise, place


def bfloat16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits).view(torch.bfloat16)


@pytest.mark.parametrize("order", ["C", "F"])
def test_products_are_rounded_one_by_one(order: str) -> None:
    rng = np.random.default_rng(0)
    points = np.asarray(rng.integers(-(1 << 23), 1 << 23, (37, 53)), np.int32, order)
    row_step, column_factor = rng.random(37).astype(np.float32), rng.random(53).astype(np.float32)
    expected = points.astype(np.float32) * (row_step[:, None] * column_factor[None, :])
    whole = np.empty((40, 60), np.float32)
    dequantise(points, row_step, column_factor, whole[3:, :53])
    assert (whole[3:, :53] == expected).all()
    short = np.empty(points.shape, np.uint16)
    dequantise(points, row_step, column_factor, short)
    assert torch.equal(bfloat16(short), torch.from_numpy(expected).to(torch.bfloat16))


def test_bfloat16_is_rounded_as_torch_does() -> None:
    """Every exponent, ties between two neighbours to both sides, subnormals, what overflows to infinity."""
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)) | low[None, :]
    weights = bits.view(np.float32)
    weights = weights[np.isfinite(weights).all(1)]
    out = np.empty(weights.shape, np.uint16)
    place(weights, out)
    expected = torch.from_numpy(weights).to(torch.bfloat16)
    assert (out == expected.view(torch.int16).numpy().view(np.uint16)).all()
    same = np.empty_like(weights)
    place(weights, same)
    assert (same.view(np.uint32) == weights.view(np.uint32)).all()
