"""Fields and records: what is written is read back, and nothing is believed."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES
from nwc_core.encoded import CODERS, DTYPE_CODES, EncodedTensor
from nwc_core.errors import FormatError, VersionError
from nwc_core.wire import ByteReader, ByteWriter

INTEGERS = st.integers(0, (1 << 63) - 1)
FIELDS = st.one_of(
    st.tuples(st.just("u8"), st.integers(0, 255)),
    st.tuples(st.just("varint"), INTEGERS),
    st.tuples(st.just("zigzag"), st.integers(-(1 << 62), (1 << 62) - 1)),
    st.tuples(st.just("f32"), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just("raw"), st.binary(max_size=20)),
)


@given(st.lists(FIELDS))
def test_every_sequence_of_fields_is_read_back(fields: list[tuple[str, object]]) -> None:
    out = ByteWriter()
    for kind, value in fields:
        getattr(out, kind)(value)
    assert len(out) == len(out.getvalue())
    reader = ByteReader(out.getvalue(), "record")
    for kind, value in fields:
        found = bytes(reader.raw(len(value))) if isinstance(value, bytes) else getattr(reader, kind)()
        assert found == value
    reader.end()


@given(INTEGERS)
def test_varint_is_leb128_of_least_length(value: int) -> None:
    out = ByteWriter()
    out.varint(value)
    data = out.getvalue()
    assert len(data) == max(1, math.ceil(value.bit_length() / 7))
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data)) == value


@given(st.lists(FIELDS, min_size=1), st.data())
def test_a_record_cut_short_is_an_error_that_names_it(fields: list[tuple[str, object]], data: st.DataObject) -> None:
    out = ByteWriter()
    for kind, value in fields:
        getattr(out, kind)(value)
    whole = out.getvalue()
    if not whole:
        return
    reader = ByteReader(whole[: data.draw(st.integers(0, len(whole) - 1))], "record of a test")

    def read_all() -> None:
        for kind, value in fields:
            reader.raw(len(value)) if isinstance(value, bytes) else getattr(reader, kind)()

    with pytest.raises(FormatError, match="record of a test, byte"):
        read_all()


def test_integers_beyond_63_bits_and_rests_are_errors() -> None:
    with pytest.raises(FormatError, match="63 bits"):
        ByteReader(b"\xff" * 9 + b"\x01", "x").varint()
    reader = ByteReader(b"\x00\x01", "x")
    reader.u8()
    with pytest.raises(FormatError, match="1 bytes after the end"):
        reader.end()


@given(
    st.sampled_from(sorted(DTYPES)),
    st.sampled_from(CODERS),
    st.lists(st.integers(0, 1 << 9), max_size=5),
    st.binary(max_size=40),
)
def test_encoded_tensor_record(dtype: str, coder: str, shape: list[int], body: bytes) -> None:
    encoded = EncodedTensor(DTYPES[dtype], tuple(shape), coder, body, side_nbytes=3, mse=1.0)
    data = encoded.to_bytes()
    again = EncodedTensor.from_bytes(data)
    assert again == encoded
    assert again.to_bytes() == data
    assert encoded.nbytes == len(data)
    assert encoded.bits_per_weight == (8 * len(data) / encoded.numel if encoded.numel else math.inf)


def test_every_element_type_has_a_code() -> None:
    assert sorted(DTYPE_CODES) == sorted(DTYPES)


def _record(*fields: int) -> bytes:
    out = ByteWriter()
    for field in fields:
        out.varint(field)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes left"),
        (_record(1, 6, 1, 0), "coder 6"),
        (_record(1, 0, len(DTYPE_CODES), 0), "dtype 17"),
        (_record(1, 0, 1, 65), "rank 65"),
        (_record(1, 0, 1, 2, 4), "0 bytes left"),
        (_record(1, 0, 1, 2, 1 << 30, 1 << 30), "elements"),
        (_record(1, 0, 1, 3, 1 << 30, 0, 1 << 30), "elements"),
        (_record(1, 0, 1, 64, *[1 << 62] * 64), "elements"),
    ],
)
def test_headers_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        EncodedTensor.from_bytes(data, "layer.weight")


def test_a_newer_version_is_told_apart_from_damage() -> None:
    with pytest.raises(VersionError, match=r"layer\.weight.*version 2"):
        EncodedTensor.from_bytes(struct.pack("<4B", 2, 0, 1, 0), "layer.weight")


@given(st.lists(st.integers(-(1 << 62), (1 << 62) - 1) | st.integers(-70, 70)), st.integers(0, 3))
def test_many_integers_at_once_are_those_one_by_one(values: list[int], cut: int) -> None:
    out = ByteWriter()
    for value in values:
        out.zigzag(value)
    reader = ByteReader(out.getvalue() + b"\x85\x01", "record")
    assert reader.zigzags(len(values)).tolist() == values
    assert reader.varint() == 0x85
    short = out.getvalue()[: max(0, len(out) - cut)]
    if len(short) < len(out):
        with pytest.raises(FormatError, match="record"):
            ByteReader(short, "record").zigzags(len(values))
    with pytest.raises(FormatError, match="more than 63 bits"):
        ByteReader(out.getvalue() + b"\xff" * 12, "record").zigzags(len(values) + 1)
