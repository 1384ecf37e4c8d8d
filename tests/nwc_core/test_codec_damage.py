"""Damaged and hostile coded tensors: an error that names the tensor, never a crash, a hang or a flood of memory."""

from __future__ import annotations

import math
import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from codec_samples import gaussian, sample_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core import intvector
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import CODERS, DTYPE_CODES, WITH_BASE, EncodedTensor
from nwc_core.errors import FormatError
from nwc_core.wire import ByteWriter

CODEC = sample_codec()


@cache
def _samples() -> list[bytes]:
    smooth = 0.3 * gaussian(16, 8, 3, 3) + gaussian(16, 8, 1, 1, seed=1)
    outlier = gaussian(40, 40)
    outlier[3, 3] = 5e4
    encoded = [
        CODEC.encode(gaussian(48, 40) * torch.logspace(-1, 1, 48)[:, None], 3.0),
        CODEC.encode(smooth, 4.0, preset="scalar"),
        CODEC.encode(gaussian(2, 64, 64).to(torch.bfloat16), 2.0),
        CODEC.encode(gaussian(40, 40), 12.0),
        CODEC.encode(outlier.double(), 5.0),
        CODEC.encode(torch.arange(500, dtype=torch.int32), 4.0),
        CODEC.encode(gaussian(20), 4.0),
        CODEC.encode(gaussian(3000), 4.0),
        CODEC.encode(torch.full((7,), torch.nan), 4.0),
    ]
    assert {e.coder for e in encoded} == {*CODERS} - {*WITH_BASE}
    return [e.to_bytes() for e in encoded]


def _mutate(data: st.DataObject, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        if not out:
            break
        # Half of the damage goes to the first bytes: sizes, exponents, scales.
        limit = len(out) - 1 if data.draw(st.booleans()) else min(len(out) - 1, 60)
        at = data.draw(st.integers(0, limit))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "repeat"]))
        if kind == "flip":
            out[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            out[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del out[at : at + data.draw(st.integers(1, 9))]
        else:
            out[at:at] = out[at : at + data.draw(st.integers(1, 60))]
    return bytes(out)


@settings(deadline=None, max_examples=500)
@given(st.data(), st.sampled_from(range(7)))
def test_mutations(data: st.DataObject, index: int) -> None:
    """Damage that the stream itself cannot show decodes to the shape and type that it claims; digests catch it."""
    damaged = _mutate(data, _samples()[index])
    try:
        encoded = EncodedTensor.from_bytes(damaged, "layer.7")
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged step may be huge
            decoded = CODEC.decode(encoded, where="layer.7")
    except FormatError as error:
        assert "layer.7" in str(error)
        return
    assert tuple(decoded.shape) == encoded.shape
    assert decoded.dtype == encoded.dtype.torch


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(CODERS), st.sampled_from(DTYPE_CODES), st.lists(st.integers(0, 70), max_size=4), st.binary())
def test_random_bodies(coder: str, dtype: str, shape: list[int], body: bytes) -> None:
    encoded = EncodedTensor(DTYPES[dtype], tuple(shape), coder, body)
    try:
        decoded = CODEC.decode(encoded, where="layer.7")
    except FormatError as error:
        assert "layer.7" in str(error)
        return
    assert tuple(decoded.shape) == encoded.shape


def test_every_truncation_fails() -> None:
    for raw in _samples():
        for length in [*range(min(len(raw), 80)), *range(80, len(raw), 37), len(raw) - 1]:
            with pytest.raises(FormatError):
                CODEC.decode(EncodedTensor.from_bytes(raw[:length]))
        with pytest.raises(FormatError):
            CODEC.decode(EncodedTensor.from_bytes(raw + b"\0"))


@pytest.mark.parametrize("dtype", ["I32", "BOOL", "F8_E4M3", "C64"])
def test_only_floats_are_coded_lossily(dtype: str) -> None:
    good = EncodedTensor.from_bytes(_samples()[0])
    with pytest.raises(FormatError, match=dtype):
        CODEC.decode(EncodedTensor(DTYPES[dtype], good.shape, "nwc", good.body))
    with pytest.raises(FormatError, match="non-empty"):
        CODEC.decode(EncodedTensor(DTYPES["F32"], (0, 3), "nwc", good.body))


def _vector(out: ByteWriter, size: int) -> None:
    out.varint(size)
    out.u8(0)
    out.zigzag(0)


def _body(
    m: int,
    n: int,
    lines: int,
    *,
    shape: int = 0,
    states: int = 0,
    transform: int = 0,
    bases: int = 0,
    scan: int = 0,
    lanes: int = 1,
    step: float = 1.0,
    absolute: int = 0,
    rest: bytes = b"",
) -> bytes:
    """A body with a valid header of an m x n matrix, and `rest` in the place of the segments."""
    out = ByteWriter()
    for field in (shape, states, transform, bases, scan, lanes):
        out.u8(field)
    out.f32(step)
    _vector(out, m)
    _vector(out, n)
    out.u8(absolute)
    out.zigzag(0)
    out.u8(0)
    out.u8(0)
    _vector(out, m)
    _vector(out, n)
    out.varint(lines)
    out.raw(rest)
    whole = ByteWriter()
    for field in (0, 1, 0, 1):
        whole.u8(field)
    whole.varint(len(out))
    whole.raw(out.getvalue())
    return whole.getvalue()


def _decode(body: bytes, *shape: int, coder: str = "nwc") -> torch.Tensor:
    return CODEC.decode(EncodedTensor(DTYPES["F32"], shape, coder, body), where="layer.7")


def test_the_crafted_header_is_right() -> None:
    """So that the tests below fail for the reason that they name: 64 zeros in one segment, no word."""
    out = ByteWriter()
    intvector.write_segment_sizes(out, segment := _zeros(64))
    intvector.write_segment(out, segment)
    assert not _decode(_body(8, 8, 8, rest=out.getvalue()), 8, 8).any()


def _zeros(count: int) -> object:
    from nwc_core.rans import encode_segment
    from nwc_core.trellis import transitions

    points, level = np.zeros(count, np.int32), np.zeros(count, np.uint8)
    return encode_segment(points, level, 1, transitions(1), CODEC.prior.tables[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": 2}, "shape 2"),
        ({"states": 1}, "trellis states"),
        ({"states": 9}, "trellis states"),
        ({"transform": 1}, "transform 1 for 8 columns"),
        ({"transform": 2}, "transform 2"),
        ({"bases": 3}, "3 bases"),
        ({"scan": 2}, "scan 2"),
        ({"lanes": 0}, "0 lanes"),
        ({"lanes": 33}, "33 lanes"),
        ({"step": math.nan}, "step nan"),
        ({"step": math.inf}, "step inf"),
        ({"step": 0.0}, "step 0"),
        ({"step": -1.0}, "step -1"),
        ({"step": 1e-40}, "step 9.99"),
        ({"lines": 0}, "no lines"),
        ({"absolute": 4}, "kind 4"),
    ],
)
def test_fields_out_of_range(fields: dict[str, float], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        _decode(_body(8, 8, **({"lines": 8} | fields), rest=bytes(100)), 8, 8)  # type: ignore[arg-type]


MILLION = 1 << 20


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (b"", (1 << 24, 1 << 24)),
        (_body(8, 8, 8, rest=bytes(100)), (MILLION, MILLION)),
        (_body(MILLION, MILLION, 1), (MILLION, MILLION)),
        (_body(MILLION, 64, 1), (MILLION, 64)),
        # Long enough that so many weights could be there, but the segments could not.
        (_body(1 << 23, 16, 1, rest=bytes(2000)), (1 << 23, 16)),
        (_body(16, 1 << 23, 1, scan=1, rest=bytes(2000)), (16, 1 << 23)),
        (_body(1 << 22, 16, 32, lanes=32, rest=bytes(2000)), (1 << 22, 16)),
        # One segment of very many words or escapes.
        (_body(64, 64, 64, rest=b"\xff\xff\xff\xff\xff\xff\xff\x7f\x00" + bytes(50)), (64, 64)),
        (_body(64, 64, 64, rest=b"\x00\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(50)), (64, 64)),
        (b"\x00\x01\x00\x01\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), (64, 64)),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_bombs_fail_before_memory_is_taken(body: bytes, shape: tuple[int, ...]) -> None:
    """Megabytes at most, whatever is claimed: numpy's buffers are counted too, written to or not.

    Where the body could hold so many weights, vectors of a number for each row and column are allowed.
    """
    lines = sum(shape) if len(body) > 1000 else 0
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"layer\.7"):
            _decode(body, *shape)
        assert tracemalloc.get_traced_memory()[1] < (1 << 22) + 24 * lines
    finally:
        tracemalloc.stop()


def test_the_densest_honest_stream_decodes() -> None:
    """All zeros under the narrowest table: 20,000 weights in a byte, which no size check may refuse."""
    segment = _zeros(1 << 21)
    out = ByteWriter()
    intvector.write_segment_sizes(out, segment)
    intvector.write_segment(out, segment)
    body = _body(1 << 15, 64, 1 << 15, rest=out.getvalue())
    assert len(body) < 250
    assert not _decode(body, 1 << 15, 64).any()


def test_step_exponents_are_bounded() -> None:
    for size, value, message in ((8, 129, "exponent"), (8, -129, "exponent")):
        good = _body(size, 8, 8, rest=bytes(90))
        out = ByteWriter()
        out.varint(size)
        out.u8(0)
        out.zigzag(0)
        changed = ByteWriter()
        changed.varint(size)
        changed.u8(0)
        changed.zigzag(value)
        grown = len(changed) - len(out)
        body = bytearray(good.replace(out.getvalue(), changed.getvalue(), 1))
        body[4] += grown
        with pytest.raises(FormatError, match=message):
            _decode(bytes(body), size, 8)
