"""Deltas: bit for bit for every pattern of every dtype, smaller where tensors are alike, refused where the base is another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_samples import gaussian, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.delta import decode_delta, difference, encode_exact_delta, same_as_base, with_base
from nwc_core.dtypes import DTYPES, from_torch
from nwc_core.encoded import DELTA, EXACT_DELTA, EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.lossless import encode_lossless, tensor_bytes, tensor_from_bytes


def patterns(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    dtype = DTYPES[name]
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if name == "BOOL" else 256, count).astype(np.uint8)
    return tensor_from_bytes(raw, dtype.torch, shape)


@settings(deadline=None)
@given(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 99), st.booleans())
def test_any_pattern_comes_back(name: str, dims: list[int], seed: int, close: bool) -> None:
    shape = tuple(dims)
    base = patterns(name, shape, seed)
    tensor = patterns(name, shape, seed + 1)
    if close and tensor.numel():  # a few elements differ
        raw = tensor_bytes(base).copy()
        raw[: tensor_bytes(tensor).size // 3] = tensor_bytes(tensor)[: tensor_bytes(tensor).size // 3]
        tensor = tensor_from_bytes(raw, base.dtype, shape)
    encoded = encode_exact_delta(tensor, base)
    assert encoded is not None
    read = EncodedTensor.from_bytes(encoded.to_bytes())
    back = decode_delta(read, base, sample_codec())
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert (tensor_bytes(back) == tensor_bytes(tensor)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_fine_tune_without_loss_takes_less_than_alone(dtype: torch.dtype) -> None:
    base = gaussian(64, 64)
    tuned = (base + 0.01 * gaussian(64, 64, seed=1)).to(dtype)
    encoded = encode_exact_delta(tuned, base.to(dtype))
    assert encoded is not None
    assert encoded.nbytes < 0.93 * encode_lossless(tuned).nbytes
    same = encode_exact_delta(tuned, tuned.clone())
    assert same == same_as_base(from_torch(dtype), (64, 64))
    assert same.nbytes < 10
    assert decode_delta(same, tuned, sample_codec()).equal(tuned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_difference_takes_fewer_bits_at_equal_error(dtype: torch.dtype) -> None:
    codec, base = sample_codec(), gaussian(256, 128)
    tuned = (base + 0.1 * gaussian(256, 128, seed=1)).to(dtype)
    alone = codec.encode(tuned, 5.5)
    apart = difference(tuned, base)
    assert apart is not None
    inner = codec.encode(apart, 2.5)
    encoded = with_base(inner, tuned, base, codec)
    assert encoded is not None
    assert encoded.coder == DELTA
    assert encoded.nbytes < 0.6 * alone.nbytes
    back = decode_delta(EncodedTensor.from_bytes(encoded.to_bytes()), base, codec)
    assert back.dtype == dtype
    error = float((back.double() - tuned.double()).square().mean())
    assert encoded.mse == pytest.approx(error, rel=1e-6)
    assert alone.mse is not None
    assert error < 1.2 * alone.mse


def test_a_base_that_is_no_relative_is_not_used() -> None:
    weight = gaussian(64, 64)
    assert difference(weight, gaussian(64, 64, seed=1)) is None
    assert difference(weight, gaussian(64, 32)) is None
    assert difference(weight, torch.zeros(64, 64, dtype=torch.int32)) is None
    assert difference(torch.empty(0, 4), torch.empty(0, 4)) is None
    assert encode_exact_delta(weight, weight.bfloat16()) is None
    assert encode_exact_delta(weight, weight[:32]) is None


def test_what_leaves_its_range_is_not_coded_so() -> None:
    weight = torch.full((32, 32), 65504.0, dtype=torch.float16)
    inner = encode_lossless(torch.full((32, 32), 1e5))
    inner = EncodedTensor(inner.dtype, inner.shape, "nwc", sample_codec().encode(gaussian(32, 32) * 1e5, 4.0).body)
    assert with_base(inner, weight, weight, sample_codec()) is None


def test_damage_and_other_bases_are_named() -> None:
    codec, base = sample_codec(), gaussian(64, 64)
    tuned = base + 0.1 * gaussian(64, 64, seed=1)
    lossy = with_base(codec.encode(tuned - base, 3.0), tuned, base, codec)
    exact = encode_exact_delta(tuned, base)
    assert lossy is not None
    assert exact is not None
    for encoded in (lossy, exact):
        with pytest.raises(FormatError, match="layer 3: found a base of shape"):
            decode_delta(encoded, base[:32], codec, where="layer 3")
        with pytest.raises(FormatError, match="layer 3"):
            decode_delta(encoded, torch.zeros(64, 64, dtype=torch.int64), codec, where="layer 3")
        for body in (b"", encoded.body[:5], encoded.body[:-3], lossy.to_bytes(), tuned.numpy().tobytes()):
            damaged = EncodedTensor(encoded.dtype, encoded.shape, encoded.coder, body)
            if encoded.coder == EXACT_DELTA and not body:
                continue
            with pytest.raises(FormatError, match="layer 3"):
                decode_delta(damaged, base, codec, where="layer 3")
