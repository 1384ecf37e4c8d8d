"""The coder "float": bit for bit for every pattern, as the specification says, smaller than rivals' models, safe to read."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import plain_floats
import pytest
import torch
from codec_samples import bits_of, gaussian, random_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.floats.body import decode_body, encode_body
from nwc_core.floats.patterns import PATTERNS
from nwc_core.floats.tables import FloatTables, learned_families, own_tables
from nwc_core.floats.vectors import read_vector, write_vector
from nwc_core.lossless import decode_lossless, encode_lossless, tensor_bytes
from nwc_core.wire import ByteReader, ByteWriter

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "decoded.json").read_text())
FLOATS = sorted(PATTERNS)


def coded(tensor: torch.Tensor) -> bytes:
    """The body, whatever is smaller."""
    name = next(name for name, dtype in DTYPES.items() if dtype.torch == tensor.dtype)
    body = encode_body(DTYPES[name], tensor_bytes(tensor), tuple(tensor.shape))
    assert body is not None
    assert 0 < body[1] <= len(body[0])
    patterns = decode_body(DTYPES[name], body[0], tensor.numel(), "here")
    assert patterns.tobytes() == bits_of(tensor)
    return body[0]


def weights(shape: tuple[int, ...], seed: int, spread: float) -> torch.Tensor:
    """With scales that differ by row and column."""
    rng = np.random.default_rng(seed)
    scale = np.float32(1)
    for axis, size in enumerate(shape):
        scale = scale * np.exp2(rng.normal(0, spread, [size if i == axis else 1 for i in range(len(shape))]))
    with np.errstate(over="ignore"):
        return torch.from_numpy((rng.standard_normal(shape) * scale * 0.02).astype(np.float32))


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(FLOATS),
    st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_weights_among_random_bits(
    name: str, shape: tuple[int, ...], spread: float, odd: float, positive: bool, seed: int
) -> None:
    dtype = DTYPES[name]
    tensor = weights(shape, seed, spread).to(dtype.torch)
    raw = tensor_bytes(tensor).reshape(-1, dtype.itemsize)
    chosen = np.random.default_rng(seed).random(len(raw)) < odd
    raw = np.where(chosen[:, None], tensor_bytes(random_bits(dtype, shape, seed)).reshape(raw.shape), raw)
    if positive:
        raw[:, -1] &= 0x7F
    if tensor.numel():
        tensor = torch.from_numpy(np.ascontiguousarray(raw).reshape(-1)).view(dtype.torch).reshape(shape)
        coded(tensor)
    encoded = EncodedTensor.from_bytes(encode_lossless(tensor).to_bytes())
    assert bits_of(decode_lossless(encoded)) == bits_of(tensor)
    assert encoded.nbytes <= tensor.numel() * dtype.itemsize + 4 + 5 * len(shape)


@pytest.mark.parametrize("name", [name for name in FLOATS if PATTERNS[name].bits <= 16])
def test_every_pattern(name: str) -> None:
    """NaN of every payload, infinities, both zeros, every subnormal."""
    patterns = np.arange(1 << PATTERNS[name].bits, dtype=PATTERNS[name].dtype)
    np.random.default_rng(0).shuffle(patterns)
    tensor = torch.from_numpy(patterns).view(DTYPES[name].torch)
    coded(tensor)
    coded(tensor.reshape(16, -1))


def test_patterns_of_float32() -> None:
    edges = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF], np.uint32)
    near = (edges[:, None] + np.arange(-3, 4, dtype=np.int64)[None]).astype(np.uint32).reshape(-1)
    both = np.concatenate([near, near | np.uint32(1 << 31)])
    coded(torch.from_numpy(both).view(torch.float32))
    coded(torch.from_numpy(np.tile(both, (40, 1))).view(torch.float32))


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 2047, 2049, 4095, 131_073])
def test_every_number_of_weights(count: int) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2):
        coded(gaussian(count, seed=count).to(dtype))


def test_segments_and_threads() -> None:
    weight = weights((2300, 1000), 1, 1.0).bfloat16()
    body = coded(weight)
    for threads in (2, 5):
        again = decode_body(DTYPES["BF16"], body, weight.numel(), "here", threads)
        assert again.tobytes() == bits_of(weight)


def test_scales_and_mantissas_pay() -> None:
    """Below the entropy of exponents alone, which is what exponent coders come close to: most where scales differ."""
    for spread, saved in ((0.0, 0.06), (1.0, 0.35)):
        weight = weights((512, 512), 2, spread).bfloat16()
        exponents = np.bincount(weight.view(torch.int16).numpy().reshape(-1) >> 7 & 255)
        share = exponents[exponents > 0] / weight.numel()
        bits = 8 - float((share * np.log2(share)).sum())
        assert 8 * len(coded(weight)) / weight.numel() < bits - saved


def test_rows_of_a_coarser_type_are_coded_apart() -> None:
    weight = gaussian(600, 128)
    plain = len(coded(weight))
    weight[100:400] = weight[100:400].half().float()
    assert len(coded(weight)) < plain - 300 * 128 * 13 / 8 + 600
    assert len(coded(weight.bfloat16().float())) < 0.70 * 2 * weight.numel()  # whole, as if it were bfloat16


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case["coder"] == "float"))
def test_golden_files_as_specified(name: str) -> None:
    encoded = EncodedTensor.from_bytes((GOLDEN / f"{name}.nwc").read_bytes())
    plain = plain_floats.decode(encoded.dtype.name, encoded.body, encoded.numel)
    dtype = PATTERNS[encoded.dtype.name].dtype
    assert np.array(plain, dtype).tobytes() == bits_of(decode_lossless(encoded))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 3, 64, 300]), st.integers(1, 200))
def test_streams_as_specified(seed: int, columns: int, rows: int) -> None:
    tensor = weights((rows, columns), seed, 0.7)[: 3000 // columns].to([torch.bfloat16, torch.float32][seed % 2])
    body = coded(tensor)
    patterns = np.array(plain_floats.decode(["BF16", "F32"][seed % 2], body, tensor.numel()), np.uint32)
    assert patterns.astype([np.uint16, np.uint32][seed % 2]).tobytes() == bits_of(tensor)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=254), st.integers(0, 1 << 30))
def test_own_tables_come_back(found: list[int], seed: int) -> None:
    counts = np.zeros((8, 256), np.int64)
    rng = np.random.default_rng(seed)
    for fold in rng.choice(8, 3, replace=False):
        counts[fold, rng.choice(256, len(found), replace=False)] = found
    tables, out = own_tables(counts), ByteWriter()
    tables.write(out)
    reader = ByteReader(out.getvalue(), "tables")
    again = FloatTables.read(reader)
    reader.end()
    assert (again.freq == tables.freq).all() and (again.freq.sum(1) == 1 << 14).all()
    coded_or_escaped = (tables.freq > 0) | (tables.freq[:, :1] > 0)
    assert coded_or_escaped[counts > 0].all()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-(1 << 19), 1 << 19), min_size=1, max_size=300))
def test_scales_come_back(values: list[int]) -> None:
    out = ByteWriter()
    write_vector(out, np.array(values, np.int32))
    reader = ByteReader(out.getvalue(), "scales")
    assert read_vector(reader, len(values), "scales").tolist() == values
    reader.end()


def test_learned_families_are_tables() -> None:
    families = learned_families()
    assert len(families) == 24
    for tables in families:
        assert (tables.freq.sum(1) == 1 << 14).all() and tables.freq.min() >= 0 and (tables.freq[:, 0] > 0).all()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 1 << 30), st.booleans())
def test_damage_is_an_error_or_other_weights(seed: int, cut: bool) -> None:
    rng = np.random.default_rng(seed)
    name = str(rng.choice(sorted(name for name, case in CASES.items() if case["coder"] == "float")))
    encoded = EncodedTensor.from_bytes((GOLDEN / f"{name}.nwc").read_bytes())
    body = bytearray(encoded.body)
    for _ in range(rng.integers(1, 4)):
        body[rng.integers(0, min(len(body), int(rng.choice([20, 400, len(body)]))))] = rng.integers(256)
    data = bytes(body[: rng.integers(0, len(body))]) if cut else bytes(body)
    try:
        decoded = decode_body(encoded.dtype, data, encoded.numel, "block 7")
    except FormatError as error:
        assert "block 7" in str(error)
    else:
        assert decoded.size == encoded.numel


@pytest.mark.parametrize(
    ("dtype", "numel", "body"),
    [
        ("BF16", 1 << 40, bytes(100)),
        ("I16", 10, bytes(100)),
        ("BF16", 0, bytes(100)),
        ("BF16", 800, b"\x00\x01" + bytes(98)),
        ("BF16", 800, b"\x07\x01" + bytes(98)),
        ("BF16", 800, b"\x01\x03" + bytes(98)),
        ("BF16", 800, b"\x01\x02" + bytes(98)),  # a group of no rows
        ("BF16", 800, b"\x01\x01\x05" + bytes(97)),  # dead bits
        ("BF16", 800, b"\x01\x01\x04\x00\x01" + bytes(95)),  # nothing left of a weight
        ("BF16", 800, b"\x01\x01\x00\x02\x41" + bytes(95)),  # 65 lanes
        ("BF16", 800, b"\x01\x01\x00\x02\x01\x00\x00\x06" + bytes(92)),  # shift 6
        ("BF16", 800, b"\x01\x01\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\xff" + bytes(86)),  # family 255
        ("BF16", 800, b"\x01\x01\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01" + bytes(85)),  # 800 segments
        (
            "BF16",
            800,
            b"\x01\x01\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x90\x4e\xff\xff\xff\xff\x7f" + bytes(79),
        ),
    ],
)
def test_lies_are_found_before_memory_is_taken(dtype: str, numel: int, body: bytes) -> None:
    learned_families()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="block 7"):
            decode_body(DTYPES[dtype], body, numel, "block 7")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
