"""Hostile coded tensors: lying sizes, bombs, states and escapes that no encoder writes."""

from __future__ import annotations

import struct
from functools import partial

import numpy as np
import zstandard
from case import MEGABYTE, Case
from codec_samples import gaussian, sample_codec

from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import VersionError
from nwc_core.intvector import write_segment, write_segment_sizes
from nwc_core.rans import LOW, Segment, encode_segment
from nwc_core.trellis import transitions
from nwc_core.wire import ByteWriter

HUGE = 1 << 62


def decode(data: object) -> object:
    """The whole way from bytes to a tensor."""
    assert isinstance(data, bytes)
    return sample_codec().decode(EncodedTensor.from_bytes(data, "block 7"), where="block 7")


def varint(value: int) -> bytes:
    out = ByteWriter()
    out.varint(value)
    return out.getvalue()


def coded(shape: tuple[int, ...], body: bytes, dtype: str = "F32", coder: str = "nwc") -> bytes:
    return EncodedTensor(DTYPES[dtype], shape, coder, body).to_bytes()


def vector(size: int, value: int = 0) -> bytes:
    """Side information of equal values."""
    out = ByteWriter()
    out.varint(size)
    out.u8(0)
    out.zigzag(value)
    return out.getvalue()


def coded_vector(size: int, *, centre: int = 0, shape: int = 0, level: int = 20, words: int = 0, escapes: int = 0,
                 state: int = LOW, rest: bytes = b"") -> bytes:  # fmt: skip
    """Side information that claims an entropy code."""
    out = ByteWriter()
    out.varint(size)
    out.u8(1)
    out.zigzag(centre)
    out.u8(shape)
    out.u8(level)
    out.varint(words)
    out.varint(escapes)
    return out.getvalue() + struct.pack("<I", state) + rest


def segment(count: int, level: int = 0, lanes: int = 1, points: int = 0, **changes: object) -> bytes:
    """Sizes and content of a segment of equal points, with fields changed afterwards."""
    good = encode_segment(
        np.full(count, points, np.int32), np.full(count, level, np.uint8), lanes, transitions(1),
        sample_codec().prior.tables[0],
    )  # fmt: skip
    fields = {"states": good.states, "words": good.words, "escapes": good.escapes} | changes
    out = ByteWriter()
    write_segment_sizes(out, bad := Segment(**fields))  # type: ignore[arg-type]
    write_segment(out, bad)
    return out.getvalue()


def stream(m: int, n: int, segments: bytes, *, lines: int | None = None, lanes: int = 1, vectors: tuple[bytes, ...] = (),
           base: int = 0, shifts: tuple[int, int] = (0, 0), transform: int = 0) -> bytes:  # fmt: skip
    """One matrix; `vectors` are row steps, column steps, row scales, column scales."""
    rows, columns, row_scales, column_scales = (*vectors, *(vector(m), vector(n), vector(m), vector(n))[len(vectors) :])
    out = ByteWriter()
    for field in (0, 0, transform, 0, 0, lanes):
        out.u8(field)
    out.f32(1.0)
    out.raw(rows + columns)
    out.u8(0)
    out.zigzag(base)
    for shift in shifts:
        out.u8(shift)
    out.raw(row_scales + column_scales)
    out.varint(m if lines is None else lines)
    return out.getvalue() + segments


def body(*streams: bytes, layout: bytes = b"\0\1\0\1") -> bytes:
    return layout + b"".join(varint(len(one)) + one for one in streams)


def matrix(segments: bytes, m: int = 8, n: int = 8, **fields: object) -> bytes:
    return coded((m, n), body(stream(m, n, segments, **fields)))  # type: ignore[arg-type]


GOOD = segment(64)


def sound() -> dict[str, bytes]:
    """What the builders above make without a lie, so that each case below fails for the reason that it names."""
    ones = (1,) * 62
    return {
        "matrix": matrix(GOOD),
        "lanes": matrix(segment(64, lanes=8), lanes=8),
        "escape": matrix(segment(64, points=600)),
        "rank 64": coded((*ones, 8, 8), body(stream(8, 8, GOOD), layout=bytes(range(64)) + b"\0\x3f")),
        "two matrices": coded((2, 8, 8), body(stream(8, 8, GOOD), stream(8, 8, GOOD), layout=b"\0\1\2\1\1")),
    }


def frame(claimed: int, blocks: bytes = b"\x01\0\0", descriptor: int = 0xE0) -> bytes:
    """A Zstandard frame with a content size of 8 bytes and these blocks (one empty one)."""
    return b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + claimed.to_bytes(8, "little") + blocks


def run_length(total: int) -> bytes:
    """Zstandard's densest blocks: 128 KiB of one byte in 4 bytes."""
    full = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return full * (total >> 17) + b"\x01\0\0"


def states(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def _record(coder: int = 0, dtype: int = 1, shape: bytes = b"\x01\x04", rest: bytes = b"") -> bytes:
    return bytes([1, coder, dtype]) + shape + rest


def _good_nwc() -> bytes:
    return sample_codec().encode(gaussian(48, 40), 4.0).to_bytes()


zstd = partial(coded, coder="zstd")
CASES = [
    Case(name, lambda data=data: data, decode, words, *rest)
    for name, data, words, *rest in [
        # The record.
        ("nothing", b"", "0 bytes left"),
        ("a newer version", b"\x02" + _record()[1:], "version 2", VersionError),
        ("version 0", b"\0" + _record()[1:], "version 0", VersionError),
        ("unknown coder", _record(coder=9), "coder 9"),
        ("unknown dtype", _record(dtype=17), "dtype 17"),
        ("rank 255 in 4 bytes", _record(shape=b"\xff"), "rank 255; wanted at most 64"),
        ("2^48 elements and 1", _record(shape=b"\x02" + varint((1 << 48) + 1) + b"\1"), "elements"),
        ("64 dimensions of 2^62", _record(shape=b"\x40" + varint(HUGE) * 64), "at most 281474976710656 elements"),
        ("a zero that hides 2^62 x 2^62", _record(shape=b"\x03\0" + varint(HUGE) * 2), "elements"),
        ("a dimension without end", _record(shape=b"\x01" + b"\xff" * 40), "more than 63 bits"),
        # Raw and Zstandard.
        ("4 terabytes of nothing", coded((1 << 40,), b"", coder="raw"), "found 0 bytes"),
        ("a byte too many", coded((4,), bytes(17), coder="raw"), "found 17 bytes"),
        ("frame that claims 2^62 bytes", zstd((1 << 46,), frame(HUGE)), "Zstandard frame of 4611686018427387904"),
        ("frame that claims the shape's 16 GB", zstd((1 << 32,), frame(1 << 34)), "Zstandard frame of 17179869184"),
        ("frame that claims 40 KB per byte", zstd((1 << 17,), frame(1 << 19)), "at most|damaged"),
        ("frame of unknown size", zstd((1000,), zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4000))),
         "Zstandard frame of"),
        ("frame with a larger frame behind it", zstd((1,), frame(4, b"\x23\0\0\0") + frame(HUGE)), "damaged"),
        ("frame of run lengths that holds more than it says", zstd((1 << 15,), frame(1 << 17, run_length(1 << 24))),
         "damaged"),
        ("window of 2 TB", zstd((4,), b"\x28\xb5\x2f\xfd\xc0\xff" + (16).to_bytes(8, "little") + b"\x81\0\0" + bytes(16)),
         "damaged"),
        ("frame that needs a dictionary", zstd((4,), b"\x28\xb5\x2f\xfd\x23\x01\0\0\0\x10\x81\0\0" + bytes(16)), "damaged"),
        ("frame to be skipped", zstd((0,), b"\x50\x2a\x4d\x18\x04\0\0\0abcd"), "Zstandard frame of 0"),
        ("reserved block type", zstd((4,), frame(16, b"\x87\0\0" + bytes(16))), "damaged"),
        # Layout and matrices.
        ("integers coded as floats", coded((8, 8), body(stream(8, 8, GOOD)), "I32"), "non-empty tensor of floats"),
        ("no axis order", coded((8, 8), b""), "bytes left"),
        ("an axis twice", coded((8, 8), body(stream(8, 8, GOOD), layout=b"\0\0\0\1")), r"axis order \[0, 0\]"),
        ("an axis that is not there", coded((8, 8), body(stream(8, 8, GOOD), layout=b"\0\x09\0\1")), "permutation"),
        ("more groups than axes", coded((8, 8), body(stream(8, 8, GOOD), layout=b"\0\1\2\1")), "at most 2 axes"),
        ("255 batch axes", coded((8, 8), body(stream(8, 8, GOOD), layout=b"\0\1\xff\xff")), "at most 2 axes"),
        ("16 million matrices in 60 bytes", coded((1 << 24, 1, 1), body(stream(1, 1, segment(1)), layout=b"\0\1\2\1\1")),
         "at most|bytes left"),
        ("4 million matrices, one of them there",
         coded((1 << 22, 1, 1), body(stream(1, 1, segment(1)), layout=b"\0\1\2\1\1")), "bytes left"),
        ("a matrix of 2^62 bytes", coded((8, 8), b"\0\1\0\1" + varint(HUGE)), "4611686018427387904 more bytes"),
        ("a matrix too many", coded((8, 8), body(stream(8, 8, GOOD), stream(8, 8, GOOD))), "after the end"),
        ("bytes behind a matrix", coded((8, 8), body(stream(8, 8, GOOD) + b"\0")), "after the end"),
        ("2^48 weights in 60 bytes", coded((1 << 24, 1 << 24), body(stream(8, 8, GOOD))), "weights"),
        ("rank 64, the last axes lying",
         coded((*(1,) * 62, 8, 9), body(stream(8, 8, GOOD), layout=bytes(range(64)) + b"\0\x3f")), "column steps|found 8"),
        # Vectors.
        ("a vector of 2^62 row steps", matrix(GOOD, vectors=(vector(HUGE),)), "4611686018427387904 row steps; wanted 8"),
        ("a vector of 2^62 column scales", matrix(GOOD, vectors=(vector(8),) * 3 + (vector(HUGE),)), "column scales"),
        ("steps around 2^61", matrix(GOOD, vectors=(vector(8, 1 << 61),)), "row steps around"),
        ("steps around -2^61", matrix(GOOD, vectors=(vector(8, -(1 << 61)),)), "row steps around -"),
        ("steps beyond 16 octaves", matrix(GOOD, vectors=(vector(8, 129),)), "step exponent out of range"),
        ("a vector of another kind", matrix(GOOD, vectors=(b"\x08\x02\0",)), "kind 2"),
        ("tables of shape 255", matrix(GOOD, vectors=(coded_vector(8, shape=255),)), "table shape 255"),
        ("tables of level 64", matrix(GOOD, vectors=(coded_vector(8, level=64),)), "level 64"),
        ("a vector with 2^62 words", matrix(GOOD, vectors=(coded_vector(8, words=HUGE),)), "words"),
        ("a vector with 2^62 escapes", matrix(GOOD, vectors=(coded_vector(8, escapes=HUGE),)), "escapes"),
        ("a vector from state 0", matrix(GOOD, vectors=(coded_vector(8, state=0),)), "entropy code|escapes|words"),
        ("a vector from state 2^32 - 1", matrix(GOOD, vectors=(coded_vector(8, state=2**32 - 1),)),
         "entropy code|escapes|words"),
        ("base level beyond 2^16", matrix(GOOD, base=(1 << 16) + 1), "base level 65537"),
        ("scales shifted by 255", matrix(GOOD, shifts=(255, 0)), "shifts up to 5"),
        # Segments.
        ("no lanes", matrix(GOOD, lanes=0), "0 lanes"),
        ("255 lanes", matrix(GOOD, lanes=255), "255 lanes"),
        ("a transform of 9 on 8 columns", matrix(GOOD, transform=1), "transform 1 for 8 columns"),
        ("segments of no line", matrix(GOOD, lines=0), "segments of no lines"),
        ("no segment", matrix(b""), "1 segments of 1 lanes"),
        ("a segment of 2^62 words", matrix(varint(HUGE) + b"\0" + bytes(9)), "4611686018427387904 words"),
        ("a segment of 2^62 escapes", matrix(b"\0" + varint(HUGE) + bytes(9)), "4611686018427387904 escapes"),
        ("more escapes than points", matrix(b"\0" + varint(65) + bytes(200)), "at most one for each of 64 points"),
        ("state 0", matrix(segment(64, states=states(0))), "words|begin|began|escapes"),
        ("state below the lower bound", matrix(segment(64, states=states(LOW - 1))), "words|began|escapes"),
        ("state 2^32 - 1", matrix(segment(64, states=states(2**32 - 1))), "words|began|escapes"),
        ("states of other lanes", matrix(segment(64, lanes=8), lanes=4), "words|began|escapes|bytes|segments"),
        ("an escape missing", matrix(segment(64, points=600, escapes=np.full(63, 300, np.int32))), "63 escapes"),
        ("escapes that no symbol asks for", matrix(segment(64, escapes=np.full(3, 300, np.int32))), "3 escapes"),
        ("escapes without end", matrix(segment(64, level=191, states=states(LOW), words=np.zeros(0, np.uint16))),
         "words|escapes|began"),
        ("an escape of 2^22", matrix(segment(64, points=600, escapes=np.full(64, 1 << 22, np.int32))), "escaped index of"),
        ("an escape of 2^62", matrix(b"\0\1" + bytes(4) + varint(HUGE)), "escaped index of"),
        ("a word too many", matrix(segment(64, words=np.zeros(9, np.uint16))), "words of entropy code"),
    ]
]  # fmt: skip

# What the true size allows: a stream of 16 million zeros under the narrowest table takes a kilobyte, and may be read.
CASES += [
    Case(
        "16 million weights and no words",
        lambda: matrix(segment(8, states=states(1)), 1 << 12, 1 << 10),
        decode,
        "words|began|escapes|segments|bytes|at most",
        memory=100 * MEGABYTE,
    ),
    Case("cut off in the states", lambda: _good_nwc()[:60], decode, "block 7"),
    Case("cut off by a byte", lambda: _good_nwc()[:-1], decode, "block 7"),
]
