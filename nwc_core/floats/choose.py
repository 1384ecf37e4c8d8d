"""What the encoder decides for a group: scales as contexts or none, how fine, and which tables; by what each would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.floats.group import TOP_LEVEL, Group, Levels
from nwc_core.floats.kernels import ESCAPE, FIRST, FOLDS, MOST_LANES, count_symbols, find_symbols
from nwc_core.floats.patterns import Patterns
from nwc_core.floats.segment import Fields, encode_segment
from nwc_core.floats.tables import ESCAPE_BITS, SYMBOLS, FloatTables, learned_families, own_tables
from nwc_core.scales import Scales, Spread
from nwc_core.wire import ByteWriter

_OCTAVES_BELOW = 20  # that symbols reach below the level's own octave: cells of an octave times this
_SEGMENT_WEIGHTS = 1 << 20
_COARSE_SHIFT = 2  # half octaves: a quarter of the tables
_TABLE_BITS, _ENTRY_BITS = 48, 4  # what own tables take, about: each, and each symbol
_WEIGHTS_PER_LANE = 2048  # a state takes 4 bytes, half of which are lost
_Unsigned = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class _Choice:
    """Levels, and the best tables for them.

    Attributes:
        bits: about what the side information and the symbols take.
        counts: of symbols [FOLDS, 256].
    """

    bits: float
    levels: Levels
    base: int
    family: int
    counts: npt.NDArray[np.int64]

    @property
    def tables(self) -> FloatTables:
        return learned_families()[self.family - 1] if self.family else own_tables(self.counts)


def encode_group(patterns: Patterns, matrix: _Unsigned, values: npt.NDArray[np.float32], dead: int) -> Group:
    """Code a matrix of patterns.

    Args:
        patterns: its type.
        matrix: [m, n].
        values: [m, n] what they stand for, all finite.
        dead: so many of the lowest mantissa bits are 0 in all of them.
    """
    signs = matrix >> (patterns.bits - 1)
    # At least one bit of each weight is stored as it is: what bounds how many a stream can claim.
    alike = dead < patterns.low_bits and bool((signs == signs.flat[0]).all())
    fields = Fields(patterns, dead, int(signs.flat[0]) if alike else None)
    tops = patterns.top(matrix)
    candidates = [_flat(patterns, tops, values)]
    if min(matrix.shape) > 1:
        candidates += _scaled(patterns, values)
    best = min((_with_tables(patterns, tops, *candidate) for candidate in candidates), key=lambda choice: choice.bits)
    tables = best.tables
    m, n = matrix.shape
    lines = max(1, _SEGMENT_WEIGHTS // n)
    lanes = min(MOST_LANES, 1 + matrix.size // _WEIGHTS_PER_LANE)
    segments = []
    for start in range(0, m, lines):
        stop = min(start + lines, m)
        some, size = tops[start:stop].reshape(-1), (stop - start) * n
        level, symbols = best.levels.of_rows(start, stop)[:size], np.empty(size, np.uint8)
        find_symbols(some, level, patterns.cell_bits, best.base, tables.known, symbols)
        raw = fields.raw(matrix[start:stop].reshape(-1))
        segments.append(encode_segment(symbols, level, some, raw, fields.raw_bits, lanes, tables))
    return Group(fields, lanes, best.base, best.levels, best.family, tables, lines, segments)


def _levels(patterns: Patterns, scales: Scales) -> tuple[Levels, int]:
    """Levels from 0 on, and the base: level 0 as many octaves below as the middle of all levels allows."""
    outer, inner = scales.axes()
    least, most = int(outer.min() + inner.min()), int(outer.max() + inner.max())
    offset = (least + most - TOP_LEVEL) // 2 // FOLDS * FOLDS
    levels = Levels(scales.base - offset, scales.rows, scales.columns, scales.row_shift, scales.column_shift)
    cells = 1 << patterns.cell_bits
    return levels, patterns.one + cells * (offset // FOLDS - _OCTAVES_BELOW) - FIRST


def _flat(patterns: Patterns, tops: npt.NDArray[np.int32], values: npt.NDArray[np.float32]) -> tuple[Levels, int]:
    """One level for all."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest > 0:
        scaled = values / np.float32(largest)
        level = FOLDS * (np.log2(largest) + 0.5 * np.log2(max(float(np.square(scaled).mean()), 2.0**-40)))
    else:  # zeros and what is not finite
        level = FOLDS * (float(np.median(tops)) / (1 << patterns.cell_bits)) - FOLDS * (
            patterns.one >> patterns.cell_bits
        )
    m, n = tops.shape
    return _levels(patterns, Scales(round(level), np.zeros(m, np.int32), np.zeros(n, np.int32), 0, 0))


def _scaled(patterns: Patterns, values: npt.NDArray[np.float32]) -> list[tuple[Levels, int]]:
    """Levels by row and column, fine and coarse; none where all are 0."""
    if not values.any():
        return []
    m, n = values.shape
    spread = Spread.measure(values)
    fine = spread.scales(np.zeros(m), np.zeros(n))
    base = round(fine.base / (1 << _COARSE_SHIFT)) << _COARSE_SHIFT
    axes = ((fine.rows << fine.row_shift) + (fine.base - base), fine.columns << fine.column_shift)
    rows, columns = (np.rint(axis / (1 << _COARSE_SHIFT)).astype(np.int32) for axis in axes)
    coarse = Scales(base, rows, columns, _COARSE_SHIFT, _COARSE_SHIFT)
    return [_levels(patterns, fine), _levels(patterns, coarse)]


def _with_tables(patterns: Patterns, tops: npt.NDArray[np.int32], levels: Levels, base: int) -> _Choice:
    """The learned family or the tables of its own that take least."""
    counts = np.zeros((FOLDS, SYMBOLS), np.int64)
    m, n = tops.shape
    lines = max(1, _SEGMENT_WEIGHTS // n)
    for start in range(0, m, lines):
        some = tops[start : start + lines].reshape(-1)
        count_symbols(some, levels.of_rows(start, min(start + lines, m))[: some.size], patterns.cell_bits, base, counts)
    side = ByteWriter()
    levels.write(side)
    scales = 8 * len(side)
    best = _Choice(scales + _own_bits(counts), levels, base, 0, counts)
    for number, tables in enumerate(learned_families() if patterns.cell_bits == FOLDS.bit_length() - 1 else (), 1):
        bits = scales + _bits(counts, tables)
        if bits < best.bits:
            best = _Choice(bits, levels, base, number, counts)
    return best


def _bits(counts: npt.NDArray[np.int64], tables: FloatTables) -> float:
    used = counts > 0
    return float((counts[used] * tables.bits[used]).sum())


def _own_bits(counts: npt.NDArray[np.int64]) -> float:
    """About what symbols take with tables made for them, these included."""
    used = counts > 0
    ideal = float((counts * np.log2(np.where(used, counts.sum(1, keepdims=True) / np.maximum(counts, 1), 1))).sum())
    ideal += ESCAPE_BITS * int(counts[:, ESCAPE].sum())
    return ideal + _TABLE_BITS * int(used.any(1).sum()) + _ENTRY_BITS * int(used.sum())
