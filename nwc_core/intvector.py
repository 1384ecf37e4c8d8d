"""Side information: short vectors of small integers (scales, steps), coded with the codec's own tables.

    varint  how many
    u8      kind: 0 all equal, 1 coded
    zigzag  the common value, or the centre that is subtracted

and for kind 1

    u8      shape of the tables
    u8      level of the table, below TABLE_LEVELS
    varint  words, then escapes
    u32     rANS state
    u16 ... words
    zigzag ... escapes

The values less the centre are the k of a scalar stream (one state, one lane) at one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nwc_core.blas import one_thread
from nwc_core.prior import RATE_SPAN, TABLE_LEVELS, Prior
from nwc_core.rans import Segment, decode_segment, encode_segment
from nwc_core.trellis import transitions
from nwc_core.wire import ByteReader, ByteWriter

_EQUAL, _CODED = 0, 1
_MAX_VALUE = 1 << 20


def table_costs(vectors: list[npt.NDArray[np.int64]], prior: Prior) -> npt.NDArray[np.float64]:
    """[shapes, vectors, TABLE_LEVELS] bits to code each vector with each table."""
    at = [np.clip(2 * values + RATE_SPAN, 0, 2 * RATE_SPAN - 2) for values in vectors]
    histograms = np.stack([np.bincount(indices, minlength=2 * RATE_SPAN) for indices in at]).astype(np.float32)
    with one_thread():
        return np.stack([histograms @ tables.rate[:TABLE_LEVELS].T for tables in prior.tables]).astype(np.float64)


def cost_bits(values: npt.NDArray[np.int64]) -> float:
    """About how many bits `write` takes: the entropy of the values."""
    if values.size == 0 or (values == values[0]).all():
        return 32.0
    seen = np.bincount(values - values.min()).astype(np.float64)
    seen = seen[seen > 0]
    return float((seen * np.log2(values.size / seen)).sum()) + 88


def write(out: ByteWriter, values: npt.NDArray[np.int64], prior: Prior) -> None:
    """Append a vector."""
    out.varint(values.size)
    if values.size == 0 or (values == values[0]).all():
        out.u8(_EQUAL)
        out.zigzag(int(values[0]) if values.size else 0)
        return
    centre = int(np.median(values))
    costs = table_costs([values - centre], prior)[:, 0]
    shape, level = np.unravel_index(int(costs.argmin()), costs.shape)
    points = (2 * (values - centre)).astype(np.int32)
    levels = np.full(values.size, level, np.uint8)
    segment = encode_segment(points, levels, 1, transitions(1), prior.tables[shape])
    out.u8(_CODED)
    out.zigzag(centre)
    out.u8(int(shape))
    out.u8(int(level))
    write_segment_sizes(out, segment)
    write_segment(out, segment)


def read(reader: ByteReader, expected: int, prior: Prior, what: str) -> npt.NDArray[np.int32]:
    """Read a vector of `expected` values; `what` names it in errors."""
    size, kind, centre = reader.varint(), reader.u8(), reader.zigzag()
    if size != expected:
        raise reader.fail(f"{size} {what}", f"{expected}")
    if abs(centre) > _MAX_VALUE:
        raise reader.fail(f"{what} around {centre}", f"at most {_MAX_VALUE}")
    if kind == _EQUAL:
        return np.full(size, centre, np.int32)
    if kind != _CODED:
        raise reader.fail(f"{what} of kind {kind}", "0 or 1")
    shape, level = reader.u8(), reader.u8()
    if shape >= prior.shapes or level >= TABLE_LEVELS:
        raise reader.fail(f"table shape {shape}, level {level}", f"below {prior.shapes} and {TABLE_LEVELS}")
    words, escapes = read_segment_sizes(reader, size)
    segment = read_segment(reader, 1, words, escapes)
    points = decode_segment(
        segment, np.full(size, level, np.uint8), transitions(1), prior.tables[shape], f"{reader.where}, {what}"
    )
    return (points >> 1) + np.int32(centre)


def write_segment_sizes(out: ByteWriter, segment: Segment) -> None:
    out.varint(segment.words.size)
    out.varint(segment.escapes.size)


def write_segment(out: ByteWriter, segment: Segment) -> None:
    """States, words, then every escape as zigzag."""
    out.raw(segment.states.astype("<u4").tobytes())
    out.raw(segment.words.astype("<u2").tobytes())
    for escape in segment.escapes.tolist():
        out.zigzag(escape)


def write_segments(out: ByteWriter, segments: Sequence[Segment]) -> int:
    """The sizes of all segments, then the segments; returns the bytes of the sizes."""
    before = len(out)
    for segment in segments:
        write_segment_sizes(out, segment)
    sizes = len(out) - before
    for segment in segments:
        write_segment(out, segment)
    return sizes


def read_segment_sizes(reader: ByteReader, points: int) -> tuple[int, int]:
    """(words, escapes) of a segment of so many points, checked against what can be."""
    words, escapes = reader.varint(), reader.varint()
    if escapes > points:
        raise reader.fail(f"{escapes} escapes", f"at most one for each of {points} points")
    if 2 * words + escapes > reader.remaining:
        raise reader.fail(f"{words} words and {escapes} escapes", f"what {reader.remaining} bytes can hold")
    return words, escapes


def read_segment(reader: ByteReader, lanes: int, words: int, escapes: int) -> Segment:
    states = np.frombuffer(reader.raw(4 * lanes), "<u4").astype(np.uint32, copy=False)
    body = np.frombuffer(reader.raw(2 * words), "<u2").astype(np.uint16, copy=False)
    values = reader.zigzags(escapes)
    if values.size and int(np.abs(values).max()) >= 1 << 22:
        raise reader.fail(f"an escaped index of {int(np.abs(values).max())}", f"below {1 << 22}")
    return Segment(states, body, values.astype(np.int32))
