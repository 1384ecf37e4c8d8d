"""The loops of `nwc_core.rans`: over vectors of lanes, and point by point where vectors do not pay or do not fit.

Both give the same words. A vector is 32 consecutive points, whatever the number of lanes; those past it belong to the next
step, are computed beside the others and masked out where it matters. So vectors stop 32 points before the end of an
array, and the last steps are taken point by point.

Decoding carries on from call to call: `states` [32] uint32, `trellis` [32] int32 and `cursor`, the numbers of words and
escapes used so far. Encoding runs backwards, fills words and escapes in the reverse of reading order, and carries
`states` and `cursor` on likewise. For slots and entries see `nwc_core.prior.ShapeTables`.
"""

from __future__ import annotations

import numpy as np

from nwc_core.kernels import kernel
from nwc_core.prior import ESCAPE, ESCAPE_FLAG, OCTAVE, PRECISION, TABLE_LEVELS
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

LOW = 1 << 16  # lower bound of a state
# What decoding returns instead of a number of points; each is a way for a stream to be wrong.
OUT_OF_WORDS, OUT_OF_ESCAPES = -1, -2
_START = (1 << PRECISION) - 1
_FLAG = int(ESCAPE_FLAG)
_OCTAVE = OCTAVE.bit_length() - 1
_WITHOUT_RAW = TABLE_LEVELS - OCTAVE  # every whole octave above this level is a raw bit


@kernel
def _raw_bits(level):  # type: ignore[no-untyped-def]
    return max(0, (np.int64(level) - _WITHOUT_RAW) >> _OCTAVE)


@kernel
def decode_points(  # type: ignore[no-untyped-def]
    points, level, first, lanes, feedback, slots, entries, words, n_words, escapes, states, trellis, cursor
):
    """Decode points[first:]; returns how many points there are, or an error.

    `words` holds n_words words and then padding of at least 2 * lanes, so that only whole steps need a check.
    """
    w, e = cursor[0], cursor[1]
    for start in range(first, points.size, lanes):
        width = min(lanes, points.size - start)
        if w > n_words:
            return OUT_OF_WORDS
        escaped = np.int64(0)
        for lane in range(width):
            lev = np.int64(level[start + lane])
            t = 2 * (lev - OCTAVE * _raw_bits(lev)) + (trellis[lane] & 1)
            x = np.int64(states[lane])
            k = np.int64(slots[(t << PRECISION) + (x & _START)])
            entry = np.int64(entries[(t << 8) + (k & 255)])
            x = (entry >> 16) * (x >> PRECISION) + (x & _START) - (entry & _START)
            refill = x < LOW
            states[lane] = np.uint32(x << 16 | np.int64(words[w]) if refill else x)
            w += int(refill)
            points[start + lane] = k
            escaped |= np.int64(k == ESCAPE) << lane
        for lane in range(width):
            raw = _raw_bits(level[start + lane])
            if raw:
                x = np.int64(states[lane])
                points[start + lane] = points[start + lane] << raw | (x & ((1 << raw) - 1))
                x >>= raw
                refill = x < LOW
                states[lane] = np.uint32(x << 16 | np.int64(words[w]) if refill else x)
                w += int(refill)
        for lane in range(width):
            k = np.int64(points[start + lane])
            if escaped >> lane & 1:
                if e >= escapes.size:
                    return OUT_OF_ESCAPES
                k = np.int64(escapes[e])
                e += 1
            state = np.int64(trellis[lane])
            points[start + lane] = 2 * k + (state & 1)
            trellis[lane] = state >> 1 ^ -(state & 1) & feedback[0] ^ -(k & 1) & feedback[1]
    cursor[0], cursor[1] = w, e
    return points.size


@kernel
def decode_vectors(  # type: ignore[no-untyped-def]
    points, level, lanes, feedback, slots, entries, words, n_words, escapes, states, trellis, cursor
):
    """The same for the first points, whole vectors of them; returns how many they were."""
    w, e = cursor[0], cursor[1]
    active = iota() < lanes
    x, state = load(states, 0), load(trellis, 0)
    first = 0
    while first + WIDTH <= points.size:
        if w > n_words:
            return OUT_OF_WORDS
        lev = load(level, first)
        raw = splat(0)
        # Of all lanes: tables are looked up for those of the next step too.
        some_raw = bits(lev > TABLE_LEVELS - 1) != 0
        if some_raw:
            raw = select(lev > TABLE_LEVELS - 1, (lev - _WITHOUT_RAW) >> _OCTAVE, 0)
            lev = lev - (raw << _OCTAVE)
        q = state & 1
        t = lev << 1 | q
        slot = x & _START
        k = gather(slots, (t << PRECISION) + slot)
        entry = gather(entries, (t << 8) + (k & 255))
        y = shift_right(entry, 16) * shift_right(x, PRECISION) + slot - (entry & _START)
        refill = below(y, LOW) & active
        x = select(refill, y << 16 | expand(words, w, refill), y)
        w += count(refill)
        escaped = bits((k == ESCAPE) & active)
        if some_raw:
            k = k << raw | (x & ((splat(1) << raw) - 1))
            x = shift_right(x, raw)
            refill = below(x, LOW) & (raw > 0) & active
            x = select(refill, x << 16 | expand(words, w, refill), x)
            w += count(refill)
        if escaped:
            store(points, first, k)
            for lane in range(lanes):
                if escaped >> np.uint32(lane) & 1:
                    if e >= escapes.size:
                        return OUT_OF_ESCAPES
                    points[first + lane] = escapes[e]
                    e += 1
            k = load(points, first)
        store(points, first, k << 1 | q)
        state = state >> 1 ^ (0 - q) & feedback[0] ^ (0 - (k & 1)) & feedback[1]
        first += lanes
    store(states, 0, x)
    store(trellis, 0, state)
    cursor[0], cursor[1] = w, e
    return first


@kernel
def decode_steps(points, level, fewest, lanes, *stream):  # type: ignore[no-untyped-def]
    """Decode points [N], as vectors where there are at least `fewest` lanes; returns N, or an error."""
    done = 0
    if lanes >= fewest:
        done = decode_vectors(points, level, lanes, *stream)
    if 0 <= done < points.size:
        done = decode_points(points, level, done, lanes, *stream)
    return done


@kernel
def encode_points(points, level, first, lanes, entries, words, escapes, states, cursor):  # type: ignore[no-untyped-def]
    """Code points[first:], the last one first; `first` is a multiple of `lanes`."""
    w, e = cursor[0], cursor[1]
    steps = (points.size - first + lanes - 1) // lanes
    for step in range(steps - 1, -1, -1):
        start = first + step * lanes
        stop = min(start + lanes, points.size)
        for i in range(stop - 1, start - 1, -1):
            raw = _raw_bits(level[i])
            if raw:
                x = np.int64(states[i - start])
                if x >= np.int64(1) << (32 - raw):
                    words[w] = x & 0xFFFF
                    w += 1
                    x >>= 16
                states[i - start] = x << raw | ((points[i] >> 1) & ((1 << raw) - 1))
        for i in range(stop - 1, start - 1, -1):
            raw = _raw_bits(level[i])
            k = np.int64(points[i]) >> 1
            t = 2 * (np.int64(level[i]) - OCTAVE * raw) + (points[i] & 1)
            high = k >> raw
            entry = np.int64(entries[(t << 8) + (high & 255 if ESCAPE < high < -ESCAPE else -ESCAPE)])
            if entry & _FLAG:
                escapes[e] = k
                e += 1
            f = entry >> 16
            x = np.int64(states[i - start])
            if x >= f << (32 - PRECISION):
                words[w] = x & 0xFFFF
                w += 1
                x >>= 16
            high = np.int64(np.uint32(x) // np.uint32(f))  # several times quicker than a division of 64 bits
            states[i - start] = (high << PRECISION) + (x - high * f) + (entry & _START)
    cursor[0], cursor[1] = w, e


@kernel
def encode_vectors(points, level, last, lanes, entries, words, escapes, states, cursor):  # type: ignore[no-untyped-def]
    """The same for points[:last], whole vectors of them, after the others."""
    w, e = cursor[0], cursor[1]
    # The last lane comes first in the words, so all lanes are held in reverse.
    active = reverse(iota()) < lanes
    x = reverse(load(states, 0))
    for first in range(last - lanes, -1, -lanes):
        n, lev = reverse(load(points, first)), reverse(load(level, first))
        k = n >> 1
        high = k
        if bits(lev > TABLE_LEVELS - 1):
            raw = select(lev > TABLE_LEVELS - 1, (lev - _WITHOUT_RAW) >> _OCTAVE, 0)
            lev = lev - (raw << _OCTAVE)
            high = k >> raw
            coarse = (raw > 0) & active
            # A shift by 32 is undefined, also where its result is masked out.
            full = below(0, shift_right(x, 32 - select(coarse, raw, 1))) & coarse
            compress(words, w, x, full)
            w += count(full)
            x = select(full, shift_right(x, 16), x) << raw | (k & ((splat(1) << raw) - 1))
        t = lev << 1 | (n & 1)
        inside = below(high - (ESCAPE + 1), 255)
        entry = gather(entries, (t << 8) + select(inside, high & 255, -ESCAPE))
        escaped = bits(((entry & _FLAG) > 0) & active)
        if escaped:
            for lane in range(lanes - 1, -1, -1):
                if escaped >> np.uint32(WIDTH - 1 - lane) & 1:
                    escapes[e] = points[first + lane] >> 1
                    e += 1
        f = shift_right(entry, 16)
        # x >= f << (32 - PRECISION), in a form that stays inside 32 bits.
        full = below(f - 1, shift_right(x, 32 - PRECISION)) & active
        compress(words, w, x, full)
        w += count(full)
        x = select(full, shift_right(x, 16), x)
        high = divide(x, f)
        # Idle lanes stay where they are: their quotients would grow past what `divide` can hold.
        x = select(active, (high << PRECISION) + (x - high * f) + (entry & _START), LOW)
    store(states, 0, reverse(x))
    cursor[0], cursor[1] = w, e
