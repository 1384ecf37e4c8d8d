"""Frequencies of symbols: for each of the eight levels of an octave one table that sums to 2^14.

Symbols are 8 bits: 0 escapes, 1 stands for top 0 (zeros, and the smallest subnormals), s from 2 on for the top s - 2 above the
lowest that the level reaches. A level an octave up moves all tops an octave up, so eight tables do for all levels.

A stream uses a *learned* family, which ships with nwc (`learned.bin`, trained on the weights of published models), or brings
tables of its own, with frequencies of four significant bits. As bytes:

    u8      which levels of the octave have a table, bit f for level f; the others escape always
    for each of them:
    u8 u8   first and last symbol
    vector  a number c for each symbol between, less that of the symbol before it, 0 before the first: frequency c below 8,
            (8 + c mod 8) * 2^(c div 8 - 1) from there on, c at most 96; see `nwc_core.floats.vectors`
    u8      the symbol that has, whatever its number says, what the others leave of 2^14; at least 1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np
import numpy.typing as npt

from nwc_core.floats.kernels import ESCAPE, FOLDS, PRECISION
from nwc_core.floats.vectors import read_vector, write_vector
from nwc_core.prior import normalise
from nwc_core.wire import ByteReader, ByteWriter
from nwc_core.zstd_frame import unpack

TOTAL = 1 << PRECISION
SYMBOLS = 256
ESCAPE_BITS = 16  # behind the symbol
LEARNED = "learned.bin"
_MOST_FAMILIES = 32
_MOST_NUMBER = 96
_RARE = 0.25  # of a slot: a symbol as rare as this takes fewer bits as an escape than as a table's entry
# frequency of each number
_VALUES = np.array([c if c < 8 else (8 + c % 8) << (c // 8 - 1) for c in range(_MOST_NUMBER + 1)], np.int64)


@dataclass(frozen=True, eq=False)
class FloatTables:
    """Tables laid out for coding.

    Attributes:
        freq: [FOLDS, 256] int64, each row with sum 2^14.
        rest: [FOLDS] the symbol whose frequency is what the others leave; of a stream's own tables only.
    """

    freq: npt.NDArray[np.int64]
    rest: npt.NDArray[np.int64] | None = None

    @cached_property
    def slots(self) -> npt.NDArray[np.uint8]:
        """Flat: slot s of table f belongs to symbol `slots[(f << PRECISION) + s]`; padded for `gather`."""
        slots = np.zeros(FOLDS * TOTAL + 3, np.uint8)
        slots[: FOLDS * TOTAL] = np.repeat(np.tile(np.arange(SYMBOLS, dtype=np.uint8), FOLDS), self.freq.reshape(-1))
        return slots

    @cached_property
    def entries(self) -> npt.NDArray[np.uint32]:
        """Flat: frequency << 16 | start of symbol s in table f at `entries[(f << 8) + s]`."""
        start = np.cumsum(self.freq, axis=1) - self.freq
        # Behind the last symbol of a table start is 2^14, of a frequency of 0: no slot leads there.
        return (self.freq << 16 | start).astype(np.uint32).reshape(-1)

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Flat: whether a table has a symbol."""
        return self.freq.reshape(-1) > 0

    @cached_property
    def bits(self) -> npt.NDArray[np.float64]:
        """[FOLDS, 256] that each symbol takes; one that is not known takes an escape and 16 bits, if there is one."""
        with np.errstate(divide="ignore"):
            bits = PRECISION - np.log2(self.freq)
        escaped = bits[:, ESCAPE] + ESCAPE_BITS
        bits[:, ESCAPE] = escaped
        return np.where(np.isinf(bits), escaped[:, None], bits)

    def write(self, out: ByteWriter) -> None:
        """Of tables made by `own_tables`."""
        assert self.rest is not None
        present = self.freq[:, ESCAPE] < TOTAL
        out.u8(sum(1 << fold for fold in range(FOLDS) if present[fold]))
        for freq, rest in zip(self.freq[present], self.rest[present].tolist(), strict=True):
            seen = np.flatnonzero(freq)
            first, last = int(seen[0]), int(seen[-1])
            numbers = np.searchsorted(_VALUES, freq[first : last + 1])
            numbers[rest - first] = numbers[max(rest - first - 1, 0)]  # any number does: one that is cheap
            out.u8(first)
            out.u8(last)
            write_vector(out, np.diff(numbers, prepend=0).astype(np.int32))
            out.u8(rest)

    @classmethod
    def read(cls, reader: ByteReader) -> FloatTables:
        """Raises FormatError for tables that are none."""
        freq = np.zeros((FOLDS, SYMBOLS), np.int64)
        present = reader.u8()
        for fold in range(FOLDS):
            if not present >> fold & 1:
                freq[fold, ESCAPE] = TOTAL
                continue
            first, last = reader.u8(), reader.u8()
            if first > last:
                raise reader.fail(f"symbols from {first} to {last}", "an order")
            numbers = read_vector(reader, last - first + 1, "frequencies").astype(np.int64).cumsum()
            if numbers.min() < 0 or numbers.max() > _MOST_NUMBER:
                raise reader.fail(f"frequencies numbered {numbers.min()} to {numbers.max()}", f"0 to {_MOST_NUMBER}")
            freq[fold, first : last + 1] = _VALUES[numbers]
            rest = reader.u8()
            freq[fold, rest] = 0
            left = TOTAL - int(freq[fold].sum())
            if not first <= rest <= last or left < 1:
                raise reader.fail(
                    f"{left} of {TOTAL} left for symbol {rest}", f"1 at least, for one of {first} to {last}"
                )
            freq[fold, rest] = left
        return cls(freq)


def own_tables(counts: npt.NDArray[np.int64]) -> FloatTables:
    """Tables for symbols that were counted [FOLDS, 256], rounded as `FloatTables.write` needs them."""
    freq, rests = np.zeros((FOLDS, SYMBOLS), np.int64), np.zeros(FOLDS, np.int64)
    for fold, found in enumerate(counts):
        if not found.any():
            freq[fold, ESCAPE] = TOTAL
            continue
        rare = found * TOTAL < _RARE * found.sum()
        seen = np.where(rare, 0, found)
        seen[ESCAPE] += int(found[rare].sum())
        used = np.flatnonzero(seen)
        exact = normalise(seen[used] / seen.sum(), TOTAL)
        rest = int(exact.argmax())
        rounded, owed = exact.copy(), 0
        for index in range(used.size):
            if index != rest:  # roundings cancel, so that what is left for this one is about its own
                wanted = max(1, int(exact[index]) + owed)
                rounded[index] = _VALUES[1 + np.abs(_VALUES[1:] - wanted).argmin()]
                owed += int(exact[index] - rounded[index])
        rounded[rest] += owed
        freq[fold, used], rests[fold] = rounded, used[rest]
    return FloatTables(freq, rests)


@cache
def learned_families() -> tuple[FloatTables, ...]:
    """The families that ship with nwc; streams name them by number, so they stay as they are for ever."""
    packed = resources.files("nwc_core.floats").joinpath(LEARNED).read_bytes()
    return tuple(FloatTables(freq) for freq in unpack_families(packed))


def unpack_families(packed: bytes) -> npt.NDArray[np.int64]:
    """[families, FOLDS, 256] frequencies of a Zstandard frame of them as uint16, little-endian, all low bytes first."""
    data = unpack(packed, 2 * _MOST_FAMILIES * FOLDS * SYMBOLS, LEARNED)
    low, high = np.frombuffer(data, np.uint8).reshape(2, -1, FOLDS, SYMBOLS).astype(np.int64)
    return low | high << 8
