"""The learned prior as integer frequency tables: what the entropy coder and the trellis search read.

A weight is quantised to a point n = 2k + q in units of its step, where q is the lowest bit of the trellis state. Its
*level* says how wide the distribution of n is expected to be: level = OCTAVE * log2(sigma / step) + LEVEL_ZERO, in
eighths of an octave. For every *shape* (a family of distributions, chosen per matrix), every level below TABLE_LEVELS
and both q there is one table of frequencies that sum to 2^PRECISION.

Table (level, q) with half width K codes k in [-K - q, K] as symbol k + K + q, and after these the escape symbol. Both
tables are symmetric: q = 0 about k = 0, q = 1 about k = -1/2, so only one half of each is stored.

Levels from TABLE_LEVELS up have no tables of their own. They share those of the last octave: with
`raw = raw_bits(level)`, the table of level - OCTAVE * raw codes k >> raw and the low `raw` bits of k follow as they are.
A density hardly changes over 2^raw of points this close together; the loss is below 0.001 bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError

OCTAVE = 8  # levels per octave: half of one level is 4 % of sigma, which costs 0.002 bit at most
LEVEL_ZERO = 24  # the level where sigma equals the step
# sigma / step up to 2^4.9, 5.9 bits per weight: the widest tables that have no need to cut tails off at 256 symbols.
TABLE_LEVELS = 64
LEVELS = 192  # with up to 16 raw bits: sigma / step up to 2^21
# 14 bits: tables of 12 misfit by up to 0.005 bit at 6 bits per weight, those of 14 by 0.001.
PRECISION = 14
TOTAL = 1 << PRECISION
MAX_HALF_WIDTH = 126  # 2K + 3 symbols fit a byte
ESCAPE = -128  # stands for every index k that a table lacks; those that it has are -127 <= k <= 126
ESCAPE_FLAG = np.uint32(1 << 15)  # above a start of PRECISION bits, below the frequency
RATE_SPAN = 256  # code lengths are tabulated for n in [-RATE_SPAN, RATE_SPAN)
_ESCAPE_BYTE_BITS = 8.0


def raw_bits(level: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """How many low bits of k are stored as they are at each level."""
    # Signed first: levels come as uint8, which would wrap around below TABLE_LEVELS.
    return np.maximum(0, (level.astype(np.int32) - TABLE_LEVELS) // OCTAVE + 1)


def normalise(pmf: npt.NDArray[np.float64], total: int = TOTAL) -> npt.NDArray[np.int64]:
    """Frequencies >= 1 with the given sum that minimise the expected code length under `pmf`.

    Starts from rounding and moves single counts where the code length gains most, which is optimal since the code
    length is convex in every frequency.
    """
    freq = np.maximum(1, np.rint(pmf * total)).astype(np.int64)
    while (excess := int(freq.sum()) - total) != 0:
        if excess > 0:
            cost = np.where(freq > 1, pmf * np.log(freq / np.maximum(freq - 1, 0.5)), np.inf)
            freq[np.argmin(cost)] -= 1
        else:
            freq[np.argmax(pmf * np.log1p(1 / freq))] += 1
    return freq


@dataclass(frozen=True, eq=False)
class ShapeTables:
    """Tables of one shape, laid out for coding. Table index t = 2 * level + q, level < TABLE_LEVELS.

    Attributes:
        freq: [2 * TABLE_LEVELS, 256] uint32, frequency of every symbol, zero behind the escape.
        start: [2 * TABLE_LEVELS, 256] uint32, sum of the frequencies before it.
        zero: [2 * TABLE_LEVELS] int32, the symbol of k = 0, K + q; the escape is symbol 2 * zero + 1 - q.
    """

    freq: npt.NDArray[np.uint32]
    start: npt.NDArray[np.uint32]
    zero: npt.NDArray[np.int32]

    @cached_property
    def slots(self) -> npt.NDArray[np.int8]:
        """Flat: slot s of table t belongs to index k at `slots[(t << PRECISION) + s]`, ESCAPE where it is the escape's.

        Three more elements at the end, as vectors of bytes are gathered four at a time.
        """
        slots = np.full((2 * TABLE_LEVELS << PRECISION) + 3, ESCAPE, np.int8)
        for t, (freq, zero) in enumerate(zip(self.freq, self.zero, strict=True)):
            escape = 2 * zero + 1 - (t & 1)
            k = np.repeat(np.arange(escape) - zero, freq[:escape])
            slots[t << PRECISION :][: k.size] = k
        return slots

    @cached_property
    def entries(self) -> npt.NDArray[np.uint32]:
        """Flat: freq << 16 | start of index k in table t at `entries[(t << 8) + (k & 255)]`, -128 <= k < 128.

        Every k that the table lacks, ESCAPE among them, has the escape's entry, with ESCAPE_FLAG set.
        """
        entries = np.empty((2 * TABLE_LEVELS, 256), np.uint32)
        packed = self.freq << np.uint32(16) | self.start
        for t, (row, zero) in enumerate(zip(packed, self.zero, strict=True)):
            escape = 2 * zero + 1 - (t & 1)
            entries[t] = row[escape] | ESCAPE_FLAG
            entries[t, np.arange(escape) - zero & 255] = row[:escape]
        return entries.reshape(-1)

    @cached_property
    def rate(self) -> npt.NDArray[np.float32]:
        """[LEVELS, 2 * RATE_SPAN] bits to code point n at `rate[level, (n >> raw_bits(level)) + RATE_SPAN]`.

        Points that need an escape cost the escape symbol and its bytes.
        """
        n = np.arange(-RATE_SPAN, RATE_SPAN)
        q, k = n & 1, n >> 1
        rate = np.empty((LEVELS, n.size), np.float32)
        for level in range(TABLE_LEVELS):
            table = 2 * level + q
            zero = self.zero[table]
            escape = 2 * zero + 1 - q
            symbol = k + zero
            inside = (symbol >= 0) & (symbol < escape)
            freq = self.freq[table, np.where(inside, symbol, escape)].astype(np.float64)
            zigzag = np.where(k >= 0, 2 * k, -2 * k - 1)
            escape_bits = _ESCAPE_BYTE_BITS * (1 + (zigzag >= 128))
            rate[level] = PRECISION - np.log2(freq) + np.where(inside, 0.0, escape_bits)
        for level in range(TABLE_LEVELS, LEVELS):
            raw = (level - TABLE_LEVELS) // OCTAVE + 1
            rate[level] = rate[level - OCTAVE * raw] + raw
        return rate

    @cached_property
    def mean_rate(self) -> npt.NDArray[np.float64]:
        """[LEVELS] expected bits per weight when weights follow the tables, mean of both q."""
        p = self.freq / TOTAL
        entropy = -(p * np.log2(np.where(p > 0, p, 1))).sum(1).reshape(TABLE_LEVELS, 2).mean(1)
        levels = np.arange(LEVELS)
        raw = raw_bits(levels)
        return np.asarray(entropy[levels - OCTAVE * raw] + raw)


@dataclass(frozen=True, eq=False)
class Prior:
    """Tables of all shapes.

    Attributes:
        half_width: [shapes, TABLE_LEVELS] uint8, K of each level.
        halves: flat uint16, for every shape and level: q = 0 as frequencies of k = 0 ... K then escape, followed by
            q = 1 as frequencies of k = 0 ... K then escape.
    """

    half_width: npt.NDArray[np.uint8]
    halves: npt.NDArray[np.uint16]

    @property
    def shapes(self) -> int:
        return int(self.half_width.shape[0])

    @cached_property
    def tables(self) -> list[ShapeTables]:
        """Expanded and checked tables, one per shape.

        Raises:
            FormatError: sizes disagree, or a table does not sum to 2^PRECISION.
        """
        size = 2 * int((self.half_width.astype(np.int64) + 2).sum())
        if self.halves.size != size:
            raise FormatError("codec, prior", f"{self.halves.size} numbers", f"{size} for these half widths")
        if int(self.half_width.max(initial=0)) > MAX_HALF_WIDTH:
            raise FormatError("codec, prior", f"half width {self.half_width.max()}", f"at most {MAX_HALF_WIDTH}")
        at, out = 0, []
        for shape in range(self.shapes):
            freq = np.zeros((2 * TABLE_LEVELS, 256), np.uint32)
            zero = np.zeros(2 * TABLE_LEVELS, np.int32)
            for level in range(TABLE_LEVELS):
                width = int(self.half_width[shape, level])
                for q in (0, 1):
                    half = self.halves[at : at + width + 1]
                    full = np.concatenate([half[::-1] if q else half[:0:-1], half, self.halves[at + width + 1 :][:1]])
                    table, at = 2 * level + q, at + width + 2
                    if int(full.sum(dtype=np.int64)) != TOTAL or full.min() == 0:
                        name = f"codec, prior, shape {shape}, level {level}, q {q}"
                        raise FormatError(
                            name, f"sum {full.sum(dtype=np.int64)}, least {full.min()}", f"sum {TOTAL}, no zeros"
                        )
                    freq[table, : full.size] = full
                    zero[table] = width + q
            start = np.zeros_like(freq)
            start[:, 1:] = np.cumsum(freq[:, :-1], axis=1)
            out.append(ShapeTables(freq, start, zero))
        return out

    @classmethod
    def from_pmf(cls, pmf: list[list[npt.NDArray[np.float64]]]) -> Prior:
        """Integer tables from probabilities.

        Args:
            pmf: [shapes][TABLE_LEVELS] arrays over n in [-M, M], M even, of the probability of point n *given its q*
                (the even ones sum to 1, the odd ones too), symmetric in n.

        The half width of a level is where a tail symbol's share drops below what its own table entry costs.
        """
        widths, halves = [], []
        for shape in pmf:
            for p in shape:
                middle = p.size // 2
                even, odd = p[middle::2], p[middle + 1 :: 2]  # k = 0, 1, ...
                tail = np.minimum(even[: odd.size], odd)
                width = int(np.clip((tail * TOTAL > 0.5).sum(), 1, min(MAX_HALF_WIDTH, odd.size - 1)))
                widths.append(width)
                for q, half in ((0, even), (1, odd)):
                    halves.append(_half_frequencies(half[: width + 1], q))
        return cls(np.array(widths, np.uint8).reshape(len(pmf), TABLE_LEVELS), np.concatenate(halves).astype(np.uint16))


def _half_frequencies(half: npt.NDArray[np.float64], q: int) -> npt.NDArray[np.int64]:
    """Frequencies of k = 0 ... K and escape whose mirrored table sums to TOTAL exactly."""
    once = 1 if q == 0 else 0  # k = 0 of q = 0 has no mirror image
    mirrored = half[once:]
    escape = max(1 - half[:once].sum() - 2 * mirrored.sum(), 0.5 / TOTAL)
    # Pairs share one frequency: normalise over half of the table, then give what parity leaves over to the rest.
    if q:
        freq = normalise(np.append(mirrored, escape / 2) / (mirrored.sum() + escape / 2), TOTAL // 2)
        return np.append(freq[:-1], 2 * freq[-1])
    pairs = normalise(np.concatenate([half[:1], 2 * mirrored, [escape]]), TOTAL // 2)
    return np.concatenate([[2 * pairs[0]], pairs[1:-1], [2 * pairs[-1]]])
