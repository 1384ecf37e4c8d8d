"""The loops of the coder "float": over vectors of 32 lanes (see `nwc_core.vector`), and one by one where time does not matter.

A step codes `lanes` weights, at most 64, one in each lane. Two vectors of 32 take it, and what lies past the lanes is masked
out. Arrays that vectors read or write have 64 elements more than they need. Slots and entries: see `nwc_core.floats.tables`.
"""

from __future__ import annotations

import numpy as np

from nwc_core.kernels import kernel
from nwc_core.vector import (
    WIDTH,
    below,
    bits,
    compress,
    count,
    divide,
    expand,
    gather,
    iota,
    load,
    reverse,
    select,
    shift_right,
    splat,
    store,
)

MOST_LANES = 2 * WIDTH
LOW = 1 << 16  # lower bound of a state
PRECISION = 14
ESCAPE, ZERO, FIRST = (
    0,
    1,
    2,
)  # symbols: a top that follows elsewhere, the top 0, and the lowest top relative to the level
FOLDS = 8  # levels of an octave, each with a table of its own
OUT_OF_WORDS, OUT_OF_ESCAPES = -1, -2
_START = (1 << PRECISION) - 1
_OCTAVE = FOLDS.bit_length() - 1


@kernel
def decode_floats(  # type: ignore[no-untyped-def]
    out,
    out_start,
    first,
    stop,
    level,
    lanes,
    slots,
    entries,
    words,
    n_words,
    escapes,
    plane16,
    plane8,
    plane4,
    plane2,
    plane1,
    fields,
    states,
    cursor,
):
    """Decode weights first ... stop - 1 of a segment into out[first - out_start:]; returns 0, or an error.

    Args:
        out: of which 64 elements are written in every step.
        first: a multiple of the lanes.
        fields: cells of an octave, log2; base; low bits that are stored; dead bits; the sign of all weights, or negative where
            each has its own above its low bits; where in the pattern the top and the sign are.
        states: [64].
        cursor: [2], words and escapes used so far.
    """
    cell_bits, base, low_bits, dead, sign, top_at, sign_at = fields
    low_mask = (1 << low_bits) - 1
    xa, xb = load(states, 0), load(states, WIDTH)
    w, e = cursor[0], cursor[1]
    tops = np.empty(MOST_LANES, np.int32)
    step = first // lanes
    for start in range(first, stop, lanes):
        if w > n_words:
            return OUT_OF_WORDS
        left = min(lanes, stop - start)
        here_a, here_b = iota() < left, iota() < left - WIDTH
        # Two vectors side by side: each waits for memory most of the time.
        level_a, level_b = load(level, start), load(level, start + WIDTH)
        slot_a, slot_b = xa & _START, xb & _START
        fold_a, fold_b = level_a & (FOLDS - 1), level_b & (FOLDS - 1)
        symbol_a, symbol_b = (
            gather(slots, (fold_a << PRECISION) + slot_a),
            gather(slots, (fold_b << PRECISION) + slot_b),
        )
        entry_a, entry_b = gather(entries, (fold_a << 8) + symbol_a), gather(entries, (fold_b << 8) + symbol_b)
        ya = shift_right(entry_a, 16) * shift_right(xa, PRECISION) + slot_a - (entry_a & 0xFFFF)
        yb = shift_right(entry_b, 16) * shift_right(xb, PRECISION) + slot_b - (entry_b & 0xFFFF)
        refill_a, refill_b = below(ya, LOW) & here_a, below(yb, LOW) & here_b
        middle = w + count(refill_a)
        xa = select(here_a, select(refill_a, ya << 16 | expand(words, w, refill_a), ya), xa)
        xb = select(here_b, select(refill_b, yb << 16 | expand(words, middle, refill_b), yb), xb)
        w = middle + count(refill_b)
        top_a = select(symbol_a == ZERO, 0, symbol_a + ((level_a >> _OCTAVE) << cell_bits) + base)
        top_b = select(symbol_b == ZERO, 0, symbol_b + ((level_b >> _OCTAVE) << cell_bits) + base)
        escaped = np.uint64(bits((symbol_b == ESCAPE) & here_b)) << np.uint64(WIDTH) | bits(
            (symbol_a == ESCAPE) & here_a
        )
        if escaped:
            store(tops, 0, top_a)
            store(tops, WIDTH, top_b)
            for lane in range(lanes):
                if escaped >> np.uint64(lane) & np.uint64(1):
                    if e >= escapes.size:
                        return OUT_OF_ESCAPES
                    tops[lane] = escapes[e]
                    e += 1
            top_a, top_b = load(tops, 0), load(tops, WIDTH)
        raw_a, raw_b, at = splat(0), splat(0), 0
        if plane16.size:
            raw_a, raw_b = load(plane16, start), load(plane16, start + WIDTH)
            at = 16
        if plane8.size:
            raw_a, raw_b = raw_a | load(plane8, start) << at, raw_b | load(plane8, start + WIDTH) << at
            at += 8
        if plane4.size:
            byte, shift = (step >> 1) * lanes, 4 * (step & 1)
            raw_a = raw_a | (shift_right(load(plane4, byte), shift) & 15) << at
            raw_b = raw_b | (shift_right(load(plane4, byte + WIDTH), shift) & 15) << at
            at += 4
        if plane2.size:
            byte, shift = (step >> 2) * lanes, 2 * (step & 3)
            raw_a = raw_a | (shift_right(load(plane2, byte), shift) & 3) << at
            raw_b = raw_b | (shift_right(load(plane2, byte + WIDTH), shift) & 3) << at
            at += 2
        if plane1.size:
            byte, shift = (step >> 3) * lanes, step & 7
            raw_a = raw_a | (shift_right(load(plane1, byte), shift) & 1) << at
            raw_b = raw_b | (shift_right(load(plane1, byte + WIDTH), shift) & 1) << at
        sign_a, sign_b = splat(sign), splat(sign)
        if sign < 0:
            sign_a, sign_b = shift_right(raw_a, low_bits), shift_right(raw_b, low_bits)
        store(out, start - out_start, sign_a << sign_at | top_a << top_at | (raw_a & low_mask) << dead)
        store(out, start - out_start + WIDTH, sign_b << sign_at | top_b << top_at | (raw_b & low_mask) << dead)
        step += 1
    store(states, 0, xa)
    store(states, WIDTH, xb)
    cursor[0], cursor[1] = w, e
    return 0


@kernel
def encode_symbols(symbols, level, size, lanes, entries, words, states):  # type: ignore[no-untyped-def]
    """Code symbols[:size], the last one first; returns how many words that took. Escapes are the caller's."""
    w = 0
    for step in range((size + lanes - 1) // lanes - 1, -1, -1):
        for lane in (WIDTH, 0):
            start, left = step * lanes + lane, min(lanes, size - step * lanes) - lane
            if left <= 0:
                continue
            # The last lane comes first in the words, so all lanes are held in reverse.
            x, here = reverse(load(states, lane)), reverse(iota()) < left
            entry = gather(entries, reverse((load(level, start) & (FOLDS - 1)) << 8 | load(symbols, start)))
            f = shift_right(entry, 16)
            # x >= f << (32 - PRECISION), in a form that stays inside 32 bits.
            full = below(f - 1, shift_right(x, 32 - PRECISION)) & here
            compress(words, w, x, full)
            w += count(full)
            y = select(full, shift_right(x, 16), x)
            f = select(here, f, 1 << PRECISION)
            high = divide(y, f)
            x = select(here, (high << PRECISION) + (y - high * f) + (entry & 0xFFFF), x)
            store(states, lane, reverse(x))
    return w


@kernel
def find_symbols(tops, level, cell_bits, base, known, symbols):  # type: ignore[no-untyped-def]
    """The symbol of each top; the escape where the table of its level lacks it: `known` [FOLDS * 256] bool."""
    for i in range(tops.size):
        fold, octave = level[i] & (FOLDS - 1), np.int32(level[i] >> _OCTAVE)
        symbol = tops[i] - (octave << cell_bits) - base
        if symbol < FIRST or symbol > 255:
            symbol = ESCAPE
        if tops[i] == 0:
            symbol = ZERO
        symbols[i] = symbol if known[(np.int64(fold) << 8) + symbol] else ESCAPE


@kernel
def count_symbols(tops, level, cell_bits, base, counts):  # type: ignore[no-untyped-def]
    """Add up counts[fold, symbol] [FOLDS, 256] with tables that know every symbol."""
    for i in range(tops.size):
        fold, octave = level[i] & (FOLDS - 1), np.int32(level[i] >> _OCTAVE)
        symbol = tops[i] - (octave << cell_bits) - base
        if symbol < FIRST or symbol > 255:
            symbol = ESCAPE
        if tops[i] == 0:
            symbol = ZERO
        counts[fold, symbol] += 1


@kernel
def pack_plane(raw, at, width, lanes, out):  # type: ignore[no-untyped-def]
    """Bits at ... at + width - 1 of each number, width 1, 2 or 4: 8 / width steps, first lowest, in one byte a lane."""
    per_byte, mask = 8 // width, (1 << width) - 1
    for start in range(0, raw.size, lanes):
        step = start // lanes
        group, shift = step // per_byte * lanes, width * (step % per_byte)
        for lane in range(min(lanes, raw.size - start)):
            out[group + lane] |= (raw[start + lane] >> at & mask) << shift


@kernel
def read_rice(data, parameter, out):  # type: ignore[no-untyped-def]
    """Decode signed integers, see `nwc_core.floats.vectors`; returns the bits used, or -1 if there are too few."""
    at, most = 0, 8 * data.size
    for i in range(out.size):
        high = 0
        while at < most and data[at >> 3] >> (at & 7) & 1:
            high += 1
            at += 1
        if at + 1 + parameter > most:
            return -1
        at += 1
        low = np.int64(0)
        for bit in range(parameter):
            low |= (np.int64(data[at >> 3]) >> (at & 7) & 1) << bit
            at += 1
        value = high << parameter | low
        out[i] = value >> 1 if value & 1 == 0 else -((value + 1) >> 1)
    return at


@kernel
def write_rice(values, parameter, data):  # type: ignore[no-untyped-def]
    """The same backwards, into zeros; `data` must be large enough."""
    at = 0
    for i in range(values.size):
        value = 2 * values[i] if values[i] >= 0 else -2 * values[i] - 1
        for _ in range(value >> parameter):
            data[at >> 3] |= 1 << (at & 7)
            at += 1
        at += 1
        for bit in range(parameter):
            data[at >> 3] |= (value >> bit & 1) << (at & 7)
            at += 1
