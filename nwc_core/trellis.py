"""Trellis-coded quantisation: the state machine, and the search for the best path through it.

Points n = 2k + q in units of the step. The lowest bit q of the state picks the even or the odd points; the parity of k
drives the state. With one state this is a scalar quantiser of twice the step; with 2^v states it is the rate-1/2
Ungerboeck code in systematic feedback form (Ungerboeck 1982, table I; entropy-coded as in Fischer and Wang 1992).

The search (Viterbi) minimises  sum (u_i - n_i)^2 + lambda * bits(n_i)  over all paths, with the code lengths of the very
tables that will code the points. It runs up to 32 independent sequences side by side, as vectors; of every step it keeps one
decision bit per state and sequence, and what the candidates are recomputed from on the way back.
"""

from __future__ import annotations

from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nwc_core.kernels import kernel
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, RATE_SPAN, ShapeTables, raw_bits
from nwc_core.vector import (
    WIDTH,
    bits,
    clip,
    floor,
    gather,
    iota,
    load,
    select,
    shift_right,
    splat,
    store,
    to_float,
)

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Parity-check polynomials (h0, h1) by log2 of the number of states.
_POLYNOMIALS = {
    2: (0o5, 0o2),
    3: (0o13, 0o04),
    4: (0o23, 0o04),
    5: (0o45, 0o10),
    6: (0o103, 0o024),
    7: (0o235, 0o126),
    8: (0o515, 0o362),
}
STATES = (1, *(1 << v for v in _POLYNOMIALS))
# The Lagrange multiplier in units of step^2 per bit. -dD/dR is 2 ln 2 D at high rate, and D is a quarter to a third of
# step^2; found by measuring the distance to Shannon's bound from 2 to 6 bits, which is flat around these.
_LAMBDA_SCALAR, _LAMBDA_TRELLIS = 0.46, 0.36
# How far below u, in steps, a candidate is looked for at most. The cap matters in heavy tails: without it an outlier in
# a row of small weights is dragged toward zero, which costs up to 0.1 bit per weight; with it the best path is at most
# 0.003 bit from the best over all points.
MAX_PULL = np.float32(0.5)
RAW_OF_LEVEL = raw_bits(np.arange(LEVELS))
RENORMALISE = 64  # steps between subtractions of the least path cost, which keep float32 exact enough


@cache
def transitions(n_states: int) -> npt.NDArray[np.int32]:
    """[n_states, 2] next state by the parity of k."""
    if n_states == 1:
        return np.zeros((1, 2), np.int32)
    h0, h1 = _POLYNOMIALS[n_states.bit_length() - 1]
    state, parity = np.arange(n_states, dtype=np.int32)[:, None], np.arange(2, dtype=np.int32)[None, :]
    following: npt.NDArray[np.int32] = state >> 1 ^ (state & 1) * (h0 >> 1) ^ parity * (h1 >> 1)
    return following


@cache
def predecessors(n_states: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """[n_states, 2] the two states that lead to each, and the class n mod 4 = 2 (k mod 2) + q of the points that do."""
    ways: list[list[tuple[int, int]]] = [[] for _ in range(n_states)]
    for state, row in enumerate(transitions(n_states)):
        for parity, following in enumerate(row):
            ways[following].append((state, 2 * parity + (state & 1)))
    table = np.array(ways, np.int32)
    return np.ascontiguousarray(table[..., 0]), np.ascontiguousarray(table[..., 1])


@kernel
def nearest(centre, c):  # type: ignore[no-untyped-def]
    """The candidates of class c: the points n = c mod 4 nearest to the centres."""
    return (floor((centre - to_float(c)) * 0.25 + 0.5) << 2) + c


@kernel
def candidates(v, level, pull, raw, rate, lam, metric):  # type: ignore[no-untyped-def]
    """The centres of the candidates for weights `v`, and in `metric` the cost of the one of each class."""
    middle = v - clip(v * gather(pull, level), -MAX_PULL, MAX_PULL)
    shift, row = gather(raw, level), level * (2 * RATE_SPAN) + RATE_SPAN
    for c in range(4):
        n = nearest(middle, splat(c))
        off = v - to_float(n)
        length = gather(rate, row + clip(n >> shift, -RATE_SPAN, RATE_SPAN - 1))
        store(metric, c * WIDTH, off * off + length * lam)
    return middle


@kernel
def advance(cost, new, origin, kind, metric, way):  # type: ignore[no-untyped-def]
    """One step: the least cost of being in every state, and by which of its two ways, a bit for each lane."""
    for s in range(way.size):
        first = load(cost, origin[s, 0] * WIDTH) + load(metric, kind[s, 0] * WIDTH)
        second = load(cost, origin[s, 1] * WIDTH) + load(metric, kind[s, 1] * WIDTH)
        better = second < first
        store(new, s * WIDTH, select(better, second, first))
        way[s] = bits(better)


@kernel
def renormalise(cost, n_states):  # type: ignore[no-untyped-def]
    """Take the least cost off all."""
    least = load(cost, 0)
    for s in range(1, n_states):
        other = load(cost, s * WIDTH)
        least = select(other < least, other, least)
    for s in range(n_states):
        store(cost, s * WIDTH, load(cost, s * WIDTH) - least)


@kernel
def _search(u, level, lanes, origin, kind, pull, raw, rate, lam, decision, centre, costs, metric):  # type: ignore[no-untyped-def]
    """Costs of the best path to every state: before the last step in costs[0], after it in costs[1].

    Also the way by which each state was entered, a bit per lane in `decision`, and the centre of the candidates. Scratch
    memory (costs[2], `metric`) comes from outside, and arrays are not assigned whole: what numba compiles for that, error
    messages about shapes included, takes longer to compile than all of the rest.
    """
    steps, n_states = decision.shape
    cost, new = costs[1], costs[2]
    for i in range(n_states * WIDTH):
        cost[i] = 0 if i < WIDTH else 1e30
    for t in range(steps):
        v, lev = load(u, t * lanes), load(level, t * lanes)
        middle = candidates(v, lev, pull, raw, rate, lam, metric)
        store(centre, t * lanes, middle)
        if t == steps - 1:
            for i in range(n_states * WIDTH):
                costs[0, i] = cost[i]
        if t % RENORMALISE == 0:
            renormalise(cost, n_states)
        advance(cost, new, origin, kind, metric, decision[t])
        cost, new = new, cost
    for i in range(n_states * WIDTH):
        costs[1, i] = cost[i]


@kernel
def _trace(costs, lanes, tail, moves, decision, centre, points):  # type: ignore[no-untyped-def]
    """Points of the best path of every lane, which ends in the last step, or one before for lanes from `tail` on.

    Entry 2 s + way of `moves`: where that way into state s comes from, times 4, plus the class of its points.
    `points` may be the memory of `centre`.
    """
    steps, n_states = decision.shape
    lane = iota()
    before, state = splat(0), splat(0)
    before_least, least = load(costs[0], 0), load(costs[1], 0)
    for s in range(1, n_states):
        other = load(costs[0], s * WIDTH)
        lower = other < before_least
        before, before_least = select(lower, s, before), select(lower, other, before_least)
        other = load(costs[1], s * WIDTH)
        lower = other < least
        state, least = select(lower, s, state), select(lower, other, least)
    for t in range(steps - 1, -1, -1):
        if t == steps - 2:
            state = select(lane < tail, state, before)
        move = gather(moves, state << 1 | shift_right(gather(decision[t], state), lane) & 1)
        n = nearest(load(centre, t * lanes), move & 3)
        # Elements past this step's lanes are points of the next step already.
        store(points, t * lanes, select(lane < lanes, n, load(points, t * lanes)))
        state = move >> 2


@cache
def rate_multiplier(n_states: int) -> np.float32:
    return np.float32(_LAMBDA_SCALAR if n_states == 1 else _LAMBDA_TRELLIS)


@cache
def pulls(n_states: int) -> npt.NDArray[np.float32]:
    """[LEVELS] how far from u toward zero a candidate is looked for, as a share of u.

    The code length of a Gaussian grows by n^2 / (2 s^2 ln 2) bits, s = sigma / step, so the cost is least at
    u / (1 + lambda / (2 s^2 ln 2)) rather than at u.
    """
    s2 = np.exp2(2 * (np.arange(LEVELS) - LEVEL_ZERO) / OCTAVE)
    pulls = 1 - 1 / (1 + float(rate_multiplier(n_states)) * 0.5 / np.log(2) / s2)
    return np.asarray(pulls, np.float32)


def search(
    u: npt.NDArray[np.float32], level: npt.NDArray[np.uint8], lanes: int, n_states: int, tables: ShapeTables
) -> npt.NDArray[np.int32]:
    """The best points for one segment, a fresh trellis in every lane.

    Args:
        u: [N] weights in units of their steps, |u| < 2^23; contiguous, as is `level`.
        level: [N] below LEVELS.
        lanes: number of interleaved sequences, 1 to 32.
        n_states: one of STATES.
        tables: the prior that will code them.

    Returns:
        [N] int32 points n.
    """
    count, steps = u.size, -(-u.size // lanes)
    room = (steps - 1) * lanes + WIDTH  # the last vector is read and written whole too
    if room != count:
        u, level = _padded(u, room), _padded(level, room)
    decision = np.empty((steps, n_states), np.uint32)
    costs, metric = np.empty((3, n_states * WIDTH), np.float32), np.empty(4 * WIDTH, np.float32)
    points = np.empty(room, np.int32)
    centre = points.view(np.float32)
    origin, kind = predecessors(n_states)
    coded = (pulls(n_states), RAW_OF_LEVEL, tables.rate.reshape(-1), rate_multiplier(n_states))
    _search(u, level, lanes, origin, kind, *coded, decision, centre, costs, metric)
    moves = (origin << 2 | kind).reshape(-1)
    _trace(costs, lanes, count - (steps - 1) * lanes, moves, decision, centre, points)
    return points[:count]


def _padded(values: npt.NDArray[_Scalar], size: int) -> npt.NDArray[_Scalar]:
    padded = np.zeros(size, values.dtype)
    padded[: values.size] = values
    return padded
