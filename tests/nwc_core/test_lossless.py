"""Lossless coding: bit for bit, for every element type and every view, and safe against bombs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import zstandard
from codec_samples import VIEWS, bits_of, random_bits, small_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES, DType
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.lossless import decode_lossless, encode_lossless, tensor_bytes, tensor_from_bytes


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(list(DTYPES.values())),
    small_shapes(),
    st.sampled_from(sorted(VIEWS)),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_any_bits_in_any_view(dtype: DType, shape: tuple[int, ...], view: str, constant: bool, seed: int) -> None:
    tensor = VIEWS[view](lambda size: random_bits(dtype, size, seed, constant), shape)
    encoded = EncodedTensor.from_bytes(encode_lossless(tensor).to_bytes())
    decoded = decode_lossless(encoded)
    assert (decoded.dtype, decoded.shape) == (tensor.dtype, tensor.shape)
    assert bits_of(decoded) == bits_of(tensor)
    assert encoded.nbytes <= tensor.numel() * dtype.itemsize + 4 + 5 * len(shape)
    decoded.add_(0) if dtype.lossy else None  # writable


def test_lazy_conjugates_and_negatives_are_resolved() -> None:
    z = torch.arange(12, dtype=torch.float32).view(torch.complex64)
    for tensor in (z.conj(), z.conj().imag, z.conj().imag[1::2], z.conj()[0].imag):
        assert torch.equal(decode_lossless(encode_lossless(tensor)), tensor)


def test_bytes_are_little_endian_and_row_major() -> None:
    tensor = torch.tensor([[1, 2], [3, 4]], dtype=torch.int16).t()
    raw = tensor_bytes(tensor)
    assert raw.tobytes() == bytes([1, 0, 3, 0, 2, 0, 4, 0])
    assert torch.equal(tensor_from_bytes(raw, torch.int16, (2, 2)), tensor)


def test_weights_shrink() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 256))).to(torch.bfloat16)
    encoded = encode_lossless(weight)
    assert encoded.coder == "float"
    assert encoded.nbytes < 0.66 * 2 * weight.numel()


def test_what_repeats_itself_goes_to_zstandard() -> None:
    for tensor in (torch.zeros(300, 300), torch.randn(1, 500).expand(500, 500), torch.eye(400).bfloat16()):
        encoded = encode_lossless(tensor)
        assert encoded.coder == "zstd"
        assert encoded.nbytes < 0.05 * tensor.numel() * tensor.element_size()


def _frame(claimed: int) -> bytes:
    """A Zstandard frame that claims a content size and holds one empty block."""
    return b"\x28\xb5\x2f\xfd\xe0" + claimed.to_bytes(8, "little") + b"\x01\x00\x00"


U8, F32 = DTYPES["U8"], DTYPES["F32"]
GOOD = encode_lossless(torch.zeros(1000, dtype=torch.uint8)).body
LONG = zstandard.ZstdCompressor(write_content_size=False)


@pytest.mark.parametrize(
    "encoded",
    [
        EncodedTensor(U8, (3,), "raw", b"ab"),
        EncodedTensor(U8, (3,), "raw", b"abcd"),
        EncodedTensor(F32, (0, 3), "raw", b"abcd"),
        EncodedTensor(U8, (1 << 40,), "raw", b"a"),
        EncodedTensor(U8, (1000,), "zstd", b""),
        EncodedTensor(U8, (1000,), "zstd", GOOD[:-1]),
        EncodedTensor(U8, (1000,), "zstd", GOOD + b"x"),
        EncodedTensor(U8, (1000,), "zstd", GOOD + GOOD),
        EncodedTensor(U8, (999,), "zstd", GOOD),
        EncodedTensor(U8, (1001,), "zstd", GOOD),
        EncodedTensor(F32, (1000,), "zstd", GOOD),
        EncodedTensor(U8, (1000,), "zstd", LONG.compress(bytes(1000))),
        EncodedTensor(U8, (1000,), "zstd", _frame(1000)),
        EncodedTensor(U8, (1 << 44,), "zstd", _frame(1 << 44)),
        EncodedTensor(U8, (1 << 24,), "zstd", _frame(1 << 24)),
    ],
)
def test_damage_is_found_before_memory_is_taken(encoded: EncodedTensor) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="block 7"):
            decode_lossless(encoded, "block 7")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_densest_honest_frame_is_accepted() -> None:
    zeros = torch.zeros(1 << 22, dtype=torch.uint8)
    encoded = encode_lossless(zeros)
    assert encoded.nbytes < 1000
    assert torch.equal(decode_lossless(encoded), zeros)
