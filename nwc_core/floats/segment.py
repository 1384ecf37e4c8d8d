"""A segment: a run of weights in row-major order, coded by themselves, so that threads may share a tensor.

u32 ...  the rANS state of each lane
u16 ...  words
u16 ...  escapes: tops that no table holds, in order
planes   what is not entropy-coded, b bits of each weight, from the lowest on in planes of 16, 8, 4, 2 and 1 bits, as many of
         these as add up to b. Planes of 16 and 8 hold one number after the other. In the others a byte holds what 8 / width
         steps have in one lane, the first step lowest: byte (step div (8 / width)) * lanes + lane; the last bytes, of no
         weights, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.floats.kernels import (
    LOW,
    MOST_LANES,
    OUT_OF_ESCAPES,
    OUT_OF_WORDS,
    decode_floats,
    encode_symbols,
    pack_plane,
)
from nwc_core.floats.patterns import Patterns
from nwc_core.floats.tables import FloatTables
from nwc_core.wire import ByteReader, ByteWriter

_WIDTHS = (16, 8, 4, 2, 1)
_PADDING = 2 * MOST_LANES  # elements that vectors may read past the end


@dataclass(frozen=True)
class Fields:
    """Where the parts of a weight go.

    Attributes:
        patterns: the type.
        dead: so many of the lowest mantissa bits are 0 in all weights.
        sign: of all weights, 0 or 1; None where each has its own.
    """

    patterns: Patterns
    dead: int
    sign: int | None

    @property
    def low_bits(self) -> int:
        """Mantissa bits of a weight that are stored as they are."""
        return self.patterns.low_bits - self.dead

    @property
    def raw_bits(self) -> int:
        """All bits of a weight that are: the sign above them, if each has its own."""
        return self.low_bits + (self.sign is None)

    def raw(self, patterns: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.uint32]:
        """Of each pattern."""
        low: npt.NDArray[np.uint32]
        low = (patterns & ((1 << self.patterns.low_bits) - 1)).astype(np.uint32) >> np.uint32(self.dead)
        if self.sign is None:
            low |= (patterns >> (self.patterns.bits - 1)).astype(np.uint32) << self.low_bits
        return low

    def arguments(self) -> tuple[int, ...]:
        """For `decode_floats`."""
        sign = -1 if self.sign is None else self.sign
        return self.low_bits, self.dead, sign, self.patterns.low_bits, self.patterns.bits - 1


@dataclass(frozen=True)
class FloatSegment:
    """A coded segment."""

    states: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint16]
    escapes: npt.NDArray[np.uint16]
    planes: tuple[npt.NDArray[np.uint8] | npt.NDArray[np.uint16], ...]  # for each of _WIDTHS, empty where unused

    def write(self, out: ByteWriter) -> None:
        out.raw(self.states.astype("<u4").tobytes())
        out.raw(self.words.astype("<u2").tobytes())
        out.raw(self.escapes.astype("<u2").tobytes())
        for plane in self.planes:
            out.raw(plane.astype(plane.dtype.newbyteorder("<")).tobytes())

    @classmethod
    def read(cls, reader: ByteReader, size: int, lanes: int, raw_bits: int, words: int, escapes: int) -> FloatSegment:
        """Of `size` weights; words and planes with padding for vectors."""
        states = np.full(MOST_LANES, LOW, np.uint32)
        states[:lanes] = np.frombuffer(reader.raw(4 * lanes), "<u4")
        coded = np.frombuffer(reader.raw(2 * words), "<u2")
        escaped = np.frombuffer(reader.raw(2 * escapes), "<u2").astype(np.uint16)
        planes = []
        for width in _WIDTHS:
            plane: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] = _no_plane(width)
            if raw_bits & width:
                count = plane_size(size, width, lanes)
                data = np.frombuffer(reader.raw(count * plane.itemsize), "<u2" if width == 16 else np.uint8)
                plane = np.concatenate([data.astype(plane.dtype), np.zeros(_PADDING, plane.dtype)])
            planes.append(plane)
        return cls(states, coded, escaped, tuple(planes))


def _no_plane(width: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """An empty plane of so many bits of each weight."""
    return np.empty(0, np.uint16) if width == 16 else np.empty(0, np.uint8)


def plane_size(size: int, width: int, lanes: int) -> int:
    """Elements of a plane of so many bits of `size` weights."""
    if width >= 8:
        return size
    per_byte = 8 // width
    whole, rest = divmod(size, per_byte * lanes)
    return whole * lanes + min(rest, lanes)


def segment_nbytes(size: int, raw_bits: int, lanes: int, words: int, escapes: int) -> int:
    """Bytes that `FloatSegment.write` makes."""
    planes = sum(plane_size(size, width, lanes) * (2 if width == 16 else 1) for width in _WIDTHS if raw_bits & width)
    return 4 * lanes + 2 * words + 2 * escapes + planes


def encode_segment(
    symbols: npt.NDArray[np.uint8],
    level: npt.NDArray[np.uint8],
    tops: npt.NDArray[np.int32],
    raw: npt.NDArray[np.uint32],
    raw_bits: int,
    lanes: int,
    tables: FloatTables,
) -> FloatSegment:
    """Code weights whose symbols, levels, tops and raw bits are given."""
    size = symbols.size
    padded = [np.concatenate([part, np.zeros(_PADDING, np.uint8)]) for part in (symbols, level)]
    words, states = np.empty(size + _PADDING, np.uint16), np.full(MOST_LANES, LOW, np.uint32)
    used = encode_symbols(*padded, size, lanes, tables.entries, words, states)
    planes: list[npt.NDArray[np.uint8] | npt.NDArray[np.uint16]] = []
    at = 0
    for width in _WIDTHS:
        plane: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
        if not raw_bits & width:
            plane = np.empty(0, np.uint8)
        elif width >= 8:
            bits = raw >> np.uint32(at)
            plane = bits.astype(np.uint16) if width == 16 else bits.astype(np.uint8)
        else:
            plane = np.zeros(plane_size(size, width, lanes), np.uint8)
            pack_plane(raw, at, width, lanes, plane)
        planes.append(plane)
        at += raw_bits & width
    escapes = tops[symbols == 0].astype(np.uint16)
    return FloatSegment(states[:lanes].copy(), words[:used][::-1].copy(), escapes, tuple(planes))


def decode_segment(
    segment: FloatSegment,
    level: npt.NDArray[np.uint8],
    out: npt.NDArray[np.unsignedinteger[Any]],
    fields: Fields,
    base: int,
    lanes: int,
    tables: FloatTables,
    where: str,
) -> None:
    """Decode into `out` [N].

    Args:
        segment: as read.
        level: [N + 64 at least].
        base: the lowest top that level 0 reaches, less 2.
        where: names the tensor in errors.

    Raises:
        FormatError: the stream is damaged.
    """
    size, patterns = out.size, fields.patterns
    words = np.empty(segment.words.size + _PADDING, np.uint32)  # 32 bits, as vectors expand those
    words[: segment.words.size] = segment.words
    words[segment.words.size :] = 0
    states, cursor = segment.states.copy(), np.zeros(2, np.int64)
    coded = (level, lanes, tables.slots, tables.entries, words, segment.words.size, segment.escapes, *segment.planes)
    how = ((patterns.cell_bits, base, *fields.arguments()), states, cursor)
    # Vectors write 64 weights a step: the last ones go through memory of their own.
    whole = max(0, (size - MOST_LANES) // lanes + 1) * lanes
    last = np.empty(size - whole + _PADDING, out.dtype)
    for part, start, stop in ((out, 0, whole), (last, whole, size)):
        status = decode_floats(part, start, start, stop, *coded, *how)
        if status == OUT_OF_WORDS:
            raise FormatError(where, f"{segment.words.size} words of entropy code", "as many as the stream asks for")
        if status == OUT_OF_ESCAPES:
            raise FormatError(where, f"{segment.escapes.size} escapes", "as many as the stream asks for")
    out[whole:] = last[: size - whole]
    if cursor.tolist() != [segment.words.size, segment.escapes.size] or (states[:lanes] != LOW).any():
        found = f"{cursor[0]} words and {cursor[1]} escapes used, or states that are not back at {LOW}"
        raise FormatError(where, found, f"{segment.words.size} and {segment.escapes.size}, and all states at {LOW}")
