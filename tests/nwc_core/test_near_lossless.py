"""Rounding within a named error: the bound holds for every pattern, and what it is not meant for stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_samples import gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES
from nwc_core.lossless import encode_lossless, tensor_bytes, tensor_from_bytes
from nwc_core.near_lossless import rounded

FLOATS = ("F64", "F32", "F16", "BF16")


@settings(deadline=None)
@given(
    st.sampled_from(FLOATS),
    st.sampled_from([0.4999, 0.5 - 1e-12, 0.25, 0.2, 0.1, 2.0**-7, 0.001, 1e-5, 1e-12, 1e-300]),
    st.integers(0, 1 << 30),
    st.booleans(),
)
def test_no_element_is_off_by_more(name: str, bound: float, seed: int, edges: bool) -> None:
    dtype = DTYPES[name]
    raw = np.random.default_rng(seed).integers(0, 256, 4000 * dtype.itemsize).astype(np.uint8)
    if edges:  # mantissas of all ones, exponents at both ends
        raw[: 2000 * dtype.itemsize] |= np.uint8(0xFF) >> np.uint8(seed % 3)
        raw[2000 * dtype.itemsize : 3000 * dtype.itemsize] &= np.uint8(0x80)
    tensor = tensor_from_bytes(raw, dtype.torch, (4000,))
    found = rounded(tensor, bound)
    assert found.dtype == tensor.dtype
    special = ~torch.isfinite(tensor) | (tensor.abs() < torch.finfo(dtype.torch).tiny)
    same = tensor_bytes(found).reshape(4000, -1) == tensor_bytes(tensor).reshape(4000, -1)
    assert same[special.numpy()].all()
    before, after = tensor[~special].double(), found[~special].double()
    assert after.isfinite().all()
    assert ((after - before).abs() <= bound * before.abs()).all()
    assert (torch.signbit(after) == torch.signbit(before)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_takes_less(dtype: torch.dtype) -> None:
    weight = (0.02 * gaussian(256, 256)).to(dtype)
    exact, coarse, coarser = (
        encode_lossless(one).nbytes for one in (weight, rounded(weight, 0.01), rounded(weight, 0.1))
    )
    assert coarser < coarse <= exact
    assert coarser < 0.75 * exact


def test_other_types_stay() -> None:
    for tensor in (torch.arange(9), gaussian(8, 8).to(torch.float8_e4m3fn), torch.empty(0, 3), torch.ones(3).bool()):
        assert rounded(tensor, 0.1) is tensor
    brain = gaussian(8, 8).bfloat16()
    assert rounded(brain, 2.0**-9) is brain  # seven bits are not enough for that
    assert rounded(torch.tensor([1.0, 1.25, 1.5, 1.75]), 0.25).tolist() == [1.0, 1.0, 1.5, 2.0]
