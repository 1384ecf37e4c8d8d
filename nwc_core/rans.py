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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError
from nwc_core.prior import ShapeTables
from nwc_core.rans_kernels import (
    LOW,
    OUT_OF_ESCAPES,
    OUT_OF_WORDS,
    decode_steps,
    encode_points,
    encode_vectors,
)
from nwc_core.vector import WIDTH

MAX_LANES = WIDTH  # a GPU warp
_FEWEST_LANES = 8  # from here on a vector of 32, however few are used, is quicker than its points one by one


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
    column: int = 0,
) -> Segment:
    """Code N points of one level each.

    Args:
        points: [N] n = 2k + q, where q must follow the trellis.
        level: [N] below LEVELS.
        lanes: 1 to MAX_LANES.
        next_state: [n_states, 2] of that trellis; only decoding needs it, a point's lowest bit is that of its state.
        tables: of the shape that codes them.
        column: points of a lane between fresh starts of its trellis; 0 for one trellis to the end. What is left after
            whole tiles of `column` points in every lane is coded with fewer lanes, those that it fills.
    """
    words = np.empty(2 * points.size + WIDTH, np.uint16)
    escapes = np.empty(points.size, np.int32)
    states, cursor = np.full(WIDTH, LOW, np.uint32), np.zeros(2, np.int64)
    body, narrow = _tiles(points.size, lanes, column)
    for part, width in ((slice(body, None), narrow), (slice(0, body), lanes)):  # from the last point to the first
        some, some_level = points[part], level[part]
        last = 0  # how many points, in whole steps, can be read as vectors
        if width >= _FEWEST_LANES and some.size >= WIDTH:
            last = ((some.size - WIDTH) // width + 1) * width
        encode_points(some, some_level, last, width, tables.entries, words, escapes, states, cursor)
        encode_vectors(some, some_level, last, width, tables.entries, words, escapes, states, cursor)
    used, escaped = cursor
    return Segment(states[:lanes].copy(), words[:used][::-1].copy(), escapes[:escaped][::-1].copy())


class Decoder:
    """Decodes a segment piece by piece, so that a piece can be used while it is in the processor's cache.

    Args:
        next_state: [n_states, 2], see `nwc_core.trellis`.
        tables: of the shape that coded the segment.
        where: names the tensor in errors.
    """

    def __init__(self, segment: Segment, next_state: npt.NDArray[np.int32], tables: ShapeTables, where: str) -> None:
        self._segment, self._tables, self._where = segment, tables, where
        # Moves are linear over bits: what the lowest bit of the state and the parity of k add to them is all there is.
        lowest = min(1, len(next_state) - 1)
        self._feedback = np.array([next_state[lowest, 0], next_state[0, 1]], np.int32)
        # 32-bit words, as vectors expand those; a step that begins inside the stream ends inside the padding.
        self._words = np.zeros(segment.words.size + 2 * WIDTH, np.uint32)
        self._words[: segment.words.size] = segment.words
        self._states = np.zeros(WIDTH, np.uint32)
        self._states[: segment.states.size] = segment.states
        self._trellis, self._cursor = np.zeros(WIDTH, np.int32), np.zeros(2, np.int64)

    @property
    def lanes(self) -> int:
        return int(self._segment.states.size)

    def decode(self, level: npt.NDArray[np.uint8], points: npt.NDArray[np.int32], column: int = 0) -> None:
        """Fill `points` [N] with the next N points, whose levels are given.

        N is a multiple of the number of lanes, or of points in a tile, except in the last piece. `column` is as in
        `encode_segment`.

        Raises:
            FormatError: the stream is damaged, or was coded with other tables.
        """
        body, narrow = _tiles(points.size, self.lanes, column)
        tile = column * self.lanes or max(1, body)
        for first in range(0, body, tile):
            if column:
                self._trellis[:] = 0
            self.run(decode_steps, points[first : first + tile], level[first : first + tile])
        if body < points.size:
            self._trellis[:] = 0
            self.run(decode_steps, points[body:], level[body:], lanes=narrow)

    def run(self, kernel: Callable[..., int], *arguments: Any, lanes: int | None = None) -> None:
        """Call a kernel that passes what follows its own arguments on to `decode_steps`, and returns errors as that does.

        Args:
            lanes: the first of them alone; all if None.

        Raises:
            FormatError: the stream is damaged, or was coded with other tables.
        """
        segment, tables, used = self._segment, self._tables, lanes or self.lanes
        coded = (self._feedback, tables.slots, tables.entries, self._words, segment.words.size, segment.escapes)
        idle = self._states[used:].copy()  # vectors go on with all
        done = kernel(*arguments, _FEWEST_LANES, used, *coded, self._states, self._trellis, self._cursor)
        self._states[used:] = idle
        if done == OUT_OF_ESCAPES:
            raise self._wrong_escapes()
        if done == OUT_OF_WORDS:
            raise self._wrong_words()

    def finish(self) -> None:
        """Check that the stream ends with its points.

        Raises:
            FormatError: the stream is damaged, or was coded with other tables.
        """
        words, escapes = self._cursor
        if escapes != self._segment.escapes.size:
            raise self._wrong_escapes()
        if words != self._segment.words.size:
            raise self._wrong_words()
        if (self._states[: self.lanes] != LOW).any():
            raise FormatError(self._where, "an entropy code that does not end where it began", f"all states at {LOW}")

    def _wrong_escapes(self) -> FormatError:
        return FormatError(self._where, f"{self._segment.escapes.size} escapes", "as many as the stream asks for")

    def _wrong_words(self) -> FormatError:
        found = f"{self._segment.words.size} words of entropy code"
        return FormatError(self._where, found, "as many as the stream asks for")


def decode_segment(
    segment: Segment,
    level: npt.NDArray[np.uint8],
    next_state: npt.NDArray[np.int32],
    tables: ShapeTables,
    where: str,
    column: int = 0,
) -> npt.NDArray[np.int32]:
    """The [N] points of a segment, N = len(level); `column` as in `encode_segment`.

    Raises:
        FormatError: the stream is damaged, or was coded with other tables; `where` names the tensor.
    """
    points = np.empty(level.size, np.int32)
    decoder = Decoder(segment, next_state, tables, where)
    decoder.decode(level, points, column)
    decoder.finish()
    return points


def _tiles(count: int, lanes: int, column: int) -> tuple[int, int]:
    """(points in whole tiles, lanes of the rest)."""
    if not column:
        return count, lanes
    rest = count % (lanes * column)
    return count - rest, max(1, rest // column)
