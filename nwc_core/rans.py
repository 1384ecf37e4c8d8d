"""Interleaved range-ANS coding of quantisation indices, driven by the trellis.

A *segment* is a run of N points n = 2k + q with one level each. Point i belongs to lane i % lanes; step t codes points
t * lanes ... of all lanes. Every lane has its own rANS state (32 bits, lower bound 2^16) and its own trellis state; all
lanes share one stream of 16-bit words, so that one vector instruction, or one GPU warp, advances all of them.

Decoding a step, lanes in order within each phase:

1. symbol: t = 2 * (level - OCTAVE * raw) + q; slot = x mod 2^14; the table's symbol s that owns the slot;
   x = freq * (x >> 14) + slot - start; if x < 2^16: x = x << 16 | next word.
2. raw bits, lanes with raw > 0: k = k << raw | (x mod 2^raw); x >>= raw; if x < 2^16: x = x << 16 | next word.
3. an escape instead of a symbol: k is the next entry of the escape list, whole (its raw bits are not coded again: phase 2
   still takes place and its bits are ignored).

Then the trellis moves by the parity of k. At the end every state must be back at 2^16 and every word and escape used:
a stream that was damaged, or decoded with other tables, shows here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.kernels import kernel
from nwc_core.prior import PRECISION, RAW_OF_LEVEL, TABLE_OF_LEVEL, ShapeTables

LOW = 1 << 16  # lower bound of a state
MAX_LANES = 32  # a GPU warp
_MASK = (1 << PRECISION) - 1
# What the decoding loop returns instead of a position; each is a way for a stream to be wrong.
OUT_OF_WORDS, OUT_OF_ESCAPES = -1, -2
ESCAPED = 1 << 40  # no k is this large


@kernel
def _encode(points, level, lanes, next_state, raw_of, table_of, freq, start, zero, words, escapes):  # type: ignore[no-untyped-def]
    """Returns (first word used, escapes used, states). `words` fills from its end, as decoding reads forward."""
    count = points.shape[0]
    states = np.full(lanes, LOW, np.uint64)
    table = np.empty(count, np.int32)
    trellis = np.zeros(lanes, np.int32)
    n_escapes = 0
    for i in range(count):
        lane = i % lanes
        q = trellis[lane] & 1
        k = (points[i] - q) >> 1
        raw = raw_of[level[i]]
        t = table_of[level[i]] + q
        symbol = (k >> raw) + zero[t]
        if symbol < 0 or symbol > 2 * zero[t] - q:
            escapes[n_escapes] = k
            n_escapes += 1
        table[i] = t
        trellis[lane] = next_state[trellis[lane], k & 1]
    w = words.shape[0]
    steps = (count + lanes - 1) // lanes
    for step in range(steps - 1, -1, -1):
        first = step * lanes
        last = min(first + lanes, count)
        for i in range(last - 1, first - 1, -1):
            raw = raw_of[level[i]]
            if raw:
                x = states[i - first]
                if x >= np.uint64(1) << np.uint64(32 - raw):
                    w -= 1
                    words[w] = x & np.uint64(0xFFFF)
                    x >>= np.uint64(16)
                k = (points[i] - (table[i] & 1)) >> 1
                states[i - first] = x << np.uint64(raw) | np.uint64(k & ((1 << raw) - 1))
        for i in range(last - 1, first - 1, -1):
            t = table[i]
            raw = raw_of[level[i]]
            symbol = (((points[i] - (t & 1)) >> 1) >> raw) + zero[t]
            escape = 2 * zero[t] + 1 - (t & 1)
            if symbol < 0 or symbol >= escape:
                symbol = escape
            f = np.uint32(freq[t, symbol])
            x = states[i - first]
            if x >= np.uint64(f) << np.uint64(32 - PRECISION):
                w -= 1
                words[w] = x & np.uint64(0xFFFF)
                x >>= np.uint64(16)
            # x fits 32 bits here, and a 32-bit division is several times quicker than a 64-bit one.
            high = np.uint32(x) // f
            states[i - first] = (np.uint64(high) << np.uint64(PRECISION)) + (x - np.uint64(high * f)) + start[t, symbol]
    return w, n_escapes, states


@kernel
def _decode(  # type: ignore[no-untyped-def]
    points, level, lanes, next_state, raw_of, table_of, symbols, packed, zero, states, words, n_words, escapes
):
    """Fills `points` and leaves the final states in `states`; returns (words used or an error code, escapes used).

    `words` holds n_words words and then padding of at least 2 * lanes, so that only whole steps need a check.
    """
    count = points.shape[0]
    trellis = np.zeros(lanes, np.int64)
    index = np.zeros(lanes, np.int64)
    w = 0
    e = 0
    any_raw = False
    for i in range(count):
        any_raw |= raw_of[level[i]] > 0
    for first in range(0, count, lanes):
        width = min(lanes, count - first)
        if w > n_words:
            return OUT_OF_WORDS, e
        for lane in range(width):
            q = trellis[lane] & 1
            t = table_of[level[first + lane]] + q
            y = np.int64(states[lane])
            slot = y & _MASK
            symbol = np.int64(symbols[(t << PRECISION) + slot])
            entry = np.int64(packed[(t << 8) + symbol])
            y = (entry >> 16) * (y >> PRECISION) + slot - (entry & 0xFFFF)
            refill = y < LOW
            states[lane] = np.uint32(y << 16 | np.int64(words[w]) if refill else y)
            w += int(refill)
            middle = np.int64(zero[t])
            index[lane] = ESCAPED if symbol == 2 * middle + 1 - q else symbol - middle
        if any_raw:
            for lane in range(width):
                raw = raw_of[level[first + lane]]
                if raw:
                    y = np.int64(states[lane])
                    if index[lane] != ESCAPED:
                        index[lane] = index[lane] << raw | (y & ((1 << raw) - 1))
                    y >>= raw
                    refill = y < LOW
                    states[lane] = np.uint32(y << 16 | np.int64(words[w]) if refill else y)
                    w += int(refill)
        for lane in range(width):
            k = index[lane]
            if k == ESCAPED:
                if e >= escapes.shape[0]:
                    return OUT_OF_ESCAPES, e
                k = np.int64(escapes[e])
                e += 1
            state = trellis[lane]
            points[first + lane] = 2 * k + (state & 1)
            trellis[lane] = next_state[state, k & 1]
    return w, e


@dataclass(frozen=True)
class Segment:
    """A coded segment.

    Attributes:
        states: [lanes] uint32, where decoding starts.
        words: uint16, in reading order.
        escapes: int32, in reading order: the k that no table holds.
    """

    states: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint16]
    escapes: npt.NDArray[np.int32]


def encode_segment(
    points: npt.NDArray[np.int32],
    level: npt.NDArray[np.uint8],
    lanes: int,
    next_state: npt.NDArray[np.int32],
    tables: ShapeTables,
) -> Segment:
    """Code N points of one level each.

    Args:
        points: [N] n = 2k + q, where q must follow the trellis.
        level: [N] below LEVELS.
        lanes: 1 to MAX_LANES.
        next_state: [n_states, 2], see `nwc_core.trellis`.
        tables: of the shape that codes them.
    """
    words = np.empty(points.size * 2 + 2 * lanes, np.uint16)
    escapes = np.empty(points.size, np.int32)
    first, n_escapes, states = _encode(
        *(points, level, lanes, next_state, RAW_OF_LEVEL, TABLE_OF_LEVEL),
        *(tables.freq, tables.start, tables.zero, words, escapes),
    )
    return Segment(states.astype(np.uint32), words[first:].copy(), escapes[:n_escapes].copy())


def decode_segment(
    segment: Segment,
    level: npt.NDArray[np.uint8],
    next_state: npt.NDArray[np.int32],
    tables: ShapeTables,
    where: str,
) -> npt.NDArray[np.int32]:
    """The [N] points of a segment, N = len(level).

    Raises:
        FormatError: the stream is damaged, or was coded with other tables; `where` names the tensor.
    """
    lanes, n_words = segment.states.size, segment.words.size
    points = np.empty(level.size, np.int32)
    states = segment.states.copy()
    padded = np.concatenate([segment.words, np.zeros(2 * lanes, np.uint16)])
    used, escapes = _decode(
        *(points, level, lanes, next_state, RAW_OF_LEVEL, TABLE_OF_LEVEL),
        *(tables.symbol.reshape(-1), tables.packed.reshape(-1), tables.zero),
        *(states, padded, n_words, segment.escapes),
    )
    if used == OUT_OF_ESCAPES or escapes != segment.escapes.size:
        raise FormatError(where, f"{segment.escapes.size} escapes", "as many as the stream asks for")
    if used != n_words:
        raise FormatError(where, f"{n_words} words of entropy code", "as many as the stream asks for")
    if (states != LOW).any():
        raise FormatError(where, "an entropy code that does not end where it began", f"all states at {LOW}")
    return points
