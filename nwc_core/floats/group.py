"""A group of rows that are coded alike: a matrix [rows, columns] of one type.

    u8      dead: how many of the lowest mantissa bits are 0 in all weights
    u8      sign: 0 positive, 1 negative, 2 each has its own
    u8      lanes, 1 to 64
    zigzag  base, at most 2^12 either way
    zigzag  base level, at most 2^12 either way
    u8 u8   row shift, column shift, at most 5
    vector  row scales, column scales, see `nwc_core.floats.vectors`
    u8      tables: 0 of its own, which follow (see `nwc_core.floats.tables`), else the number of a learned family
    varint  rows in a segment, at least 1
    { varint words, varint escapes } for each segment
    { segment } for each, see `nwc_core.floats.segment`

The level of weight (i, j) is base level + (row_i << row shift) + (column_j << column shift), clamped to 0 ... 255: eighths of
an octave. Symbol s from 2 on stands for the top s + c (level div 8) + base, c the cells of an octave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.floats.kernels import MOST_LANES
from nwc_core.floats.patterns import Patterns
from nwc_core.floats.segment import Fields, FloatSegment, decode_segment, segment_nbytes
from nwc_core.floats.tables import FloatTables, learned_families
from nwc_core.floats.vectors import read_vector, write_vector
from nwc_core.scales import fill_levels
from nwc_core.threads import map_threads
from nwc_core.wire import ByteReader, ByteWriter

TOP_LEVEL = 255
_MOST_SHIFT = 5
_MOST_BASE = 1 << 12
_OWN_SIGNS = 2


@dataclass(frozen=True)
class Levels:
    """What predicts how large weights are: sums of a number of the row and one of the column."""

    base: int
    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    row_shift: int
    column_shift: int

    def of_rows(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Flat: of all weights of rows start ... stop - 1, with padding for vectors."""
        outer = (self.rows[start:stop] << self.row_shift) + np.int32(self.base)
        inner = self.columns << self.column_shift
        size = outer.size * inner.size
        flat = np.zeros(size + 2 * MOST_LANES, np.uint8)
        fill_levels(outer, inner, TOP_LEVEL, flat[:size].reshape(outer.size, inner.size))
        return flat

    def write(self, out: ByteWriter) -> None:
        out.zigzag(self.base)
        out.u8(self.row_shift)
        out.u8(self.column_shift)
        write_vector(out, self.rows)
        write_vector(out, self.columns)

    @classmethod
    def read(cls, reader: ByteReader, m: int, n: int) -> Levels:
        base, row_shift, column_shift = reader.zigzag(), reader.u8(), reader.u8()
        if abs(base) > _MOST_BASE or max(row_shift, column_shift) > _MOST_SHIFT:
            found = f"base level {base}, shifts {row_shift}, {column_shift}"
            raise reader.fail(found, f"{_MOST_BASE} and {_MOST_SHIFT} at most")
        rows, columns = read_vector(reader, m, "row scales"), read_vector(reader, n, "column scales")
        return cls(base, rows, columns, row_shift, column_shift)


@dataclass(frozen=True)
class Group:
    """A coded group.

    Attributes:
        fields: of a weight.
        lanes: of each segment.
        base: the lowest top that level 0 reaches, less 2.
        levels: of the weights.
        family: number of a learned family, from 1; 0 for tables of its own.
        tables: that code the symbols.
        lines: rows in a segment.
        segments: in order.
    """

    fields: Fields
    lanes: int
    base: int
    levels: Levels
    family: int
    tables: FloatTables
    lines: int
    segments: list[FloatSegment]

    def write(self, out: ByteWriter) -> int:
        """Returns how many bytes were side information."""
        before = len(out)
        out.u8(self.fields.dead)
        out.u8(_OWN_SIGNS if self.fields.sign is None else self.fields.sign)
        out.u8(self.lanes)
        out.zigzag(self.base)
        self.levels.write(out)
        out.u8(self.family)
        if not self.family:
            self.tables.write(out)
        out.varint(self.lines)
        for segment in self.segments:
            out.varint(segment.words.size)
            out.varint(segment.escapes.size)
        side = len(out) - before
        for segment in self.segments:
            segment.write(out)
        return side

    @classmethod
    def read(cls, reader: ByteReader, patterns: Patterns, m: int, n: int) -> Group:
        """Of an [m, n] matrix; the caller has checked that so many weights may be there at all."""
        dead, sign, lanes, base = reader.u8(), reader.u8(), reader.u8(), reader.zigzag()
        if dead > patterns.low_bits or sign > _OWN_SIGNS or not 1 <= lanes <= MOST_LANES or abs(base) > _MOST_BASE:
            found = f"{dead} dead bits, sign {sign}, {lanes} lanes, base {base}"
            raise reader.fail(found, f"at most {patterns.low_bits}, {_OWN_SIGNS}, {MOST_LANES} and {_MOST_BASE}")
        fields = Fields(patterns, dead, None if sign == _OWN_SIGNS else sign)
        if fields.raw_bits < 1:
            raise reader.fail("weights without a bit of their own", "one at least")
        levels = Levels.read(reader, m, n)
        family = reader.u8()
        families = learned_families()
        if family > len(families):
            raise reader.fail(f"learned family {family}", f"at most {len(families)}; a newer nwc may know it")
        tables = families[family - 1] if family else FloatTables.read(reader)
        lines = reader.varint()
        if lines < 1:
            raise reader.fail("segments of no rows", "1 at least")
        starts = range(0, m, lines)
        if 2 * len(starts) > reader.remaining:
            raise reader.fail(f"{len(starts)} segments", f"what {reader.remaining} bytes can hold")
        counts = [(reader.varint(), reader.varint()) for _ in starts]
        sizes = [(min(start + lines, m) - start) * n for start in starts]
        raw, left = fields.raw_bits, reader.remaining
        needed = sum(segment_nbytes(size, raw, lanes, *count) for size, count in zip(sizes, counts, strict=True))
        if needed > left:  # before memory is taken
            raise reader.fail(f"segments of {needed} bytes", f"what {left} bytes can hold")
        pairs = zip(sizes, counts, strict=True)
        segments = [FloatSegment.read(reader, size, lanes, raw, *count) for size, count in pairs]
        return cls(fields, lanes, base, levels, family, tables, lines, segments)

    def decode_into(self, out: npt.NDArray[np.unsignedinteger[Any]], where: str, threads: int) -> None:
        """Decode into `out` [m, n], contiguous.

        Raises:
            FormatError: a stream is damaged.
        """
        m, _ = out.shape

        def decode(index: int) -> None:
            start = index * self.lines
            stop = min(start + self.lines, m)
            level, flat = self.levels.of_rows(start, stop), out[start:stop].reshape(-1)
            segment, name = self.segments[index], f"{where}, segment {index}"
            decode_segment(segment, level, flat, self.fields, self.base, self.lanes, self.tables, name)

        map_threads(decode, range(len(self.segments)), threads)
