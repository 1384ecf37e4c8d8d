"""Trellis-coded quantisation: the state machine, and the search for the best path through it.

Points n = 2k + q in units of the step. The lowest bit q of the state picks the even or the odd points; the parity of k
drives the state. With one state this is a scalar quantiser of twice the step; with 2^v states it is the rate-1/2
Ungerboeck code in systematic feedback form (Ungerboeck 1982, table I; entropy-coded as in Fischer and Wang 1992).

The search (Viterbi) minimises  sum (u_i - n_i)^2 + lambda * bits(n_i)  over all paths, with the code lengths of the very
tables that will code the points. It runs MAX_LANES independent sequences side by side, so that its inner loops are
vector operations; one decision bit per state is kept and the candidates are recomputed on the way back.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from nwc_core.kernels import kernel
from nwc_core.prior import LEVEL_ZERO, LEVELS, OCTAVE, RATE_SPAN, ShapeTables, raw_bits
from nwc_core.rans import MAX_LANES

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
_MAX_PULL = np.float32(0.5)
_RENORMALISE = 64  # steps between subtractions of the least path cost, which keep float32 exact enough


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
def _predecessors(n_states: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """[n_states, 2] the two states that lead to each, and the class n mod 4 = 2 (k mod 2) + q of the points that do."""
    ways: list[list[tuple[int, int]]] = [[] for _ in range(n_states)]
    for state, row in enumerate(transitions(n_states)):
        for parity, following in enumerate(row):
            ways[following].append((state, 2 * parity + (state & 1)))
    table = np.array(ways, np.int32)
    return np.ascontiguousarray(table[..., 0]), np.ascontiguousarray(table[..., 1])


@kernel
def _nearest(v, pull, c):  # type: ignore[no-untyped-def]
    """The candidate of class c: the point n = c mod 4 nearest to v, less what the rate pulls it toward zero."""
    centre = v - min(max(v * pull, -_MAX_PULL), _MAX_PULL)
    return np.int32(4) * np.int32(np.floor((centre - np.float32(c)) * np.float32(0.25) + np.float32(0.5))) + np.int32(c)


@kernel
def _search(u, level, lanes, tail, origin, kind, pull, raw, rate, lam, decision, points):  # type: ignore[no-untyped-def]
    """Best points [steps, MAX_LANES] of u, both in steps; lanes beyond `lanes` (`tail` in the last step) are padding."""
    steps = u.shape[0]
    n_states = origin.shape[0]
    word_bits = 8 * decision.itemsize
    cost = np.full((n_states, MAX_LANES), np.float32(1e30))
    cost[0, :] = 0
    new = np.empty((n_states, MAX_LANES), np.float32)
    short = np.empty((n_states, MAX_LANES), np.float32)  # path costs of lanes that end one step early
    metric = np.empty((4, MAX_LANES), np.float32)
    for t in range(steps):
        for lane in range(lanes):
            v = u[t, lane]
            lev = np.int64(level[t, lane])
            shift = raw[lev]
            for c in range(4):
                n = _nearest(v, pull[lev], c)
                at = min(max((n >> shift) + RATE_SPAN, 0), 2 * RATE_SPAN - 1)
                d = v - np.float32(n)
                metric[c, lane] = d * d + lam * rate[lev, at]
        if t == steps - 1:
            short[:, :] = cost
        if t % _RENORMALISE == 0:
            for lane in range(MAX_LANES):
                least = cost[0, lane]
                for s in range(1, n_states):
                    least = min(least, cost[s, lane])
                for s in range(n_states):
                    cost[s, lane] -= least
        for i in range(decision.shape[1]):
            for lane in range(MAX_LANES):
                decision[t, i, lane] = 0
        for s in range(n_states):
            a, b = origin[s, 0], origin[s, 1]
            ka, kb = kind[s, 0], kind[s, 1]
            bit = s % word_bits
            for lane in range(MAX_LANES):
                x = cost[a, lane] + metric[ka, lane]
                y = cost[b, lane] + metric[kb, lane]
                second = y < x
                new[s, lane] = y if second else x
                decision[t, s // word_bits, lane] |= decision.dtype.type(second) << decision.dtype.type(bit)
        cost, new = new, cost
    for lane in range(lanes):
        ends = cost if lane < tail else short
        s = 0
        for i in range(1, n_states):
            if ends[i, lane] < ends[s, lane]:
                s = i
        for t in range(steps - 1 if lane < tail else steps - 2, -1, -1):
            way = np.int64(decision[t, s // word_bits, lane] >> decision.dtype.type(s % word_bits)) & 1
            c = kind[s, way]
            points[t, lane] = _nearest(u[t, lane], pull[np.int64(level[t, lane])], c)
            s = origin[s, way]


@cache
def _rate_multiplier(n_states: int) -> np.float32:
    return np.float32(_LAMBDA_SCALAR if n_states == 1 else _LAMBDA_TRELLIS)


@cache
def _pulls(n_states: int) -> npt.NDArray[np.float32]:
    """[LEVELS] how far from u toward zero a candidate is looked for, as a share of u.

    The code length of a Gaussian grows by n^2 / (2 s^2 ln 2) bits, s = sigma / step, so the cost is least at
    u / (1 + lambda / (2 s^2 ln 2)) rather than at u.
    """
    s2 = np.exp2(2 * (np.arange(LEVELS) - LEVEL_ZERO) / OCTAVE)
    pulls = 1 - 1 / (1 + float(_rate_multiplier(n_states)) * 0.5 / np.log(2) / s2)
    return np.asarray(pulls, np.float32)


def search(
    u: npt.NDArray[np.float32], level: npt.NDArray[np.uint8], lanes: int, n_states: int, tables: ShapeTables
) -> npt.NDArray[np.int32]:
    """The best points for one segment, a fresh trellis in every lane.

    Args:
        u: [N] weights in units of their steps, |u| < 2^23.
        level: [N] below LEVELS.
        lanes: number of interleaved sequences, 1 to MAX_LANES.
        n_states: one of STATES.
        tables: the prior that will code them.

    Returns:
        [N] int32 points n.
    """
    count = u.size
    steps = -(-count // lanes)
    if lanes == MAX_LANES and count == steps * lanes:
        u_steps, level_steps = u.reshape(steps, lanes), level.reshape(steps, lanes)
    else:
        u_steps = np.zeros((steps, MAX_LANES), np.float32)
        level_steps = np.zeros((steps, MAX_LANES), np.uint8)
        for source, target in ((u, u_steps), (level, level_steps)):
            whole = source[: (steps - 1) * lanes].reshape(steps - 1, lanes)
            target[:-1, :lanes] = whole
            target[-1, : count - whole.size] = source[whole.size :]
    word: type[np.unsignedinteger] = np.uint8 if n_states <= 8 else np.uint16 if n_states == 16 else np.uint32
    decision = np.empty((steps, max(1, n_states // 32), MAX_LANES), word)
    points = np.empty((steps, MAX_LANES), np.int32)
    origin, kind = _predecessors(n_states)
    _search(
        *(u_steps, level_steps, lanes, count - (steps - 1) * lanes, origin, kind),
        *(_pulls(n_states), raw_bits(np.arange(LEVELS)), tables.rate),
        *(_rate_multiplier(n_states), decision, points),
    )
    return np.ascontiguousarray(points[:, :lanes]).reshape(-1)[:count]
