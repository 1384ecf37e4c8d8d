"""Coding within an absolute error: it holds for whatever floats there are, and costs about what its entropy is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_samples import gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.codec import Codec
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import UsageError
from nwc_core.lossless import encode_lossless, tensor_bytes, tensor_from_bytes

CODEC = Codec.load("default")
SHAPES = [(32, 32), (1, 1024), (64, 17), (4, 8, 3, 3), (3, 20, 24), (2000,)]


def decoded(encoded: EncodedTensor) -> torch.Tensor:
    return CODEC.decode(EncodedTensor.from_bytes(encoded.to_bytes()))


def check(tensor: torch.Tensor, bound: float) -> EncodedTensor:
    encoded = CODEC.encode_nearest(tensor, bound)
    found = decoded(encoded)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    finite = torch.isfinite(tensor)
    assert ((found.double() - tensor.double()).abs()[finite] <= bound).all()
    if not finite.all() or encoded.coder != "nwc":
        assert tensor_bytes(found).tobytes() == tensor_bytes(tensor).tobytes()
    return encoded


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["F64", "F32", "F16", "BF16"]),
    st.sampled_from(SHAPES),
    st.sampled_from([1e-300, 1e-30, 1e-6, 0.001, 0.3, 7.0, 1e30]),
    st.integers(0, 1 << 30),
)
def test_any_bits_at_all(name: str, shape: tuple[int, ...], bound: float, seed: int) -> None:
    dtype = DTYPES[name]
    numel = int(np.prod(shape))
    raw = np.random.default_rng(seed).integers(0, 256, numel * dtype.itemsize).astype(np.uint8)
    check(tensor_from_bytes(raw, dtype.torch, shape), bound)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from(SHAPES),
    st.floats(-7, 1),
    st.floats(-3, 3),
    st.integers(0, 1 << 30),
)
def test_weights_of_any_spread(
    dtype: torch.dtype, shape: tuple[int, ...], bound: float, spread: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.exp(spread * torch.randn((shape[0], *[1] * (len(shape) - 1)), generator=generator))
    check((rows * torch.randn(shape, generator=generator)).clamp(-3e4, 3e4).to(dtype), 10**bound)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.0])
def test_constants(value: float) -> None:
    check(torch.full((64, 64), value), 0.01)


def test_weights_just_between_two_steps() -> None:
    bound = 2.0**-10
    steps = torch.arange(-2048, 2048, dtype=torch.float32).reshape(64, 64)
    check((2 * steps + 1) * bound, bound)
    check(((2 * steps + 1) * bound).nextafter(torch.tensor(9.0)), bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_takes_what_the_entropy_is(dtype: torch.dtype) -> None:
    weight = (0.02 * gaussian(512, 512)).to(dtype)
    encoded = check(weight, 0.002)
    points = torch.round(weight.float() / 0.004).to(torch.int64).flatten()
    share = torch.bincount(points - points.min()).double() / points.numel()
    entropy = float(-(share[share > 0] * share[share > 0].log2()).sum())
    assert encoded.coder == "nwc"
    assert encoded.bits_per_weight < entropy + (0.06 if dtype == torch.float32 else 0.25)


def test_what_would_not_be_smaller_is_exact() -> None:
    weight = gaussian(64, 64).to(torch.bfloat16)
    encoded = check(weight, 1e-9)
    assert encoded.coder != "nwc"
    assert encoded.nbytes == encode_lossless(weight).nbytes
    for other in (torch.arange(4096).reshape(64, 64), gaussian(8, 8).to(torch.float8_e4m3fn), gaussian(4000)):
        assert CODEC.encode_nearest(other, 0.5).coder != "nwc"


def test_threads_make_no_difference() -> None:
    weight = gaussian(1200, 1024)
    assert CODEC.encode_nearest(weight, 0.1, threads=2).body == CODEC.encode_nearest(weight, 0.1).body


def test_the_published_codec_cannot() -> None:
    with pytest.raises(UsageError, match="nwc-paper"):
        Codec.load("nwc-paper").encode_nearest(gaussian(64, 64), 0.1)
