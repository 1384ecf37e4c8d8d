"""Trellis search with error feedback (LDLQ): what a weight's rounding does to the output, later columns make up for.

The loss of a row is e H e', e its error. With H = U D U', U unit upper triangular, it is  sum_j d_j (t_j - w^_j)^2 , where the
target  t_j = w_j + sum_{i<j} e_i U_ij  follows from the errors e_i = w_i - w^_i of the columns before (LDLQ, Chee et al.
2023; the same as GPTQ, Frantar et al. 2023). All is in units of the columns' steps here: u_j = w_j / step_j and
U'_ij = U_ij step_i / step_j.

The trellis runs down a column, whose targets are known once the columns before are decided, and its state is carried into
the next column. (A trellis along rows, every state with errors of its own, would search all rows side by side as vectors;
it was measured to lose 0.05 bit, since paths that meet in a state have different targets ahead.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nwc_core.blas import one_thread
from nwc_core.kernels import kernel
from nwc_core.prior import LEVELS, RATE_SPAN, ShapeTables
from nwc_core.trellis import MAX_PULL, RAW_OF_LEVEL, predecessors, pulls, rate_multiplier

_BLOCK = 32  # columns between matrix products


@kernel
def _search_block(  # type: ignore[no-untyped-def]
    target, weight, upper, first, stop, fresh, rows, columns, origin, kind, pull, raw, rate, lam, state, way, points
):
    """Decide columns [first, stop) of points [n, m]; target [n, m] of these columns takes the feedback among them.

    `state` [1] is carried from column to column; `way` [m, S] is scratch.
    """
    m, n_states = way.shape
    cost, new, metric = np.empty(n_states, np.float32), np.empty(n_states, np.float32), np.empty(4, np.float32)
    moves = np.empty(2 * n_states, np.int32)
    for s in range(n_states):
        for b in range(2):
            moves[2 * s + b] = origin[s, b] << 2 | kind[s, b]
    error = np.empty(m, np.float32)
    for j in range(first, stop):
        for s in range(n_states):
            cost[s] = 1e30
        cost[0 if fresh[j] else state[0]] = 0
        for i in range(m):
            u = target[j, i]
            level = min(max(rows[i] + columns[j], 0), LEVELS - 1)
            centre = u - min(max(u * pull[level], -MAX_PULL), MAX_PULL)
            shift = raw[level]
            for c in range(4):
                n = (np.int32(np.floor((centre - np.float32(c)) * np.float32(0.25) + np.float32(0.5))) << 2) + c
                off = u - np.float32(n)
                at = min(max((n >> shift) + RATE_SPAN, 0), 2 * RATE_SPAN - 1)
                metric[c] = off * off + rate[level, at] * lam
            if i & 63 == 63:  # float32 stays exact enough
                least = cost[0]
                for s in range(1, n_states):
                    least = min(least, cost[s])
                for s in range(n_states):
                    cost[s] -= least
            for s in range(n_states):
                a = cost[origin[s, 0]] + metric[kind[s, 0]]
                b = cost[origin[s, 1]] + metric[kind[s, 1]]
                new[s] = min(a, b)
                way[i, s] = b < a
            cost, new = new, cost
        s = 0
        for other in range(1, n_states):
            if cost[other] < cost[s]:
                s = other
        state[0] = s
        for i in range(m - 1, -1, -1):
            move = moves[2 * s + way[i, s]]
            u = target[j, i]
            level = min(max(rows[i] + columns[j], 0), LEVELS - 1)
            centre = u - min(max(u * pull[level], -MAX_PULL), MAX_PULL)
            c = move & 3
            n = (np.int32(np.floor((centre - np.float32(c)) * np.float32(0.25) + np.float32(0.5))) << 2) + c
            points[j, i] = n
            error[i] = weight[j, i] - np.float32(n)
            s = move >> 2
        for k in range(j + 1, stop):
            factor = upper[j, k]
            for i in range(m):
                target[k, i] += factor * error[i]


def search_columns(
    u: npt.NDArray[np.float32],
    row_level: npt.NDArray[np.int32],
    column_level: npt.NDArray[np.int32],
    starts: Sequence[int],
    n_states: int,
    tables: ShapeTables,
    upper: npt.NDArray[np.float32],
) -> npt.NDArray[np.int32]:
    """Points that make the weighted loss small.

    Args:
        u: [m, n] weights in units of their steps.
        row_level: [m], column_level: [n]: levels are their sums, clamped to the tables that exist.
        starts: columns at which a fresh trellis starts, 0 among them; n is no column, and means nothing.
        n_states: one of STATES.
        tables: the prior that will code the points.
        upper: [n, n] U', of which only what lies above the diagonal is used.

    Returns:
        [n, m] int32 points, column by column.
    """
    m, n = u.shape
    weight = np.ascontiguousarray(u.T)
    target, points = weight.copy(), np.empty((n, m), np.int32)
    fresh = np.zeros(n + 1, np.bool_)
    fresh[list(starts)] = True
    state, way = np.zeros(1, np.int32), np.empty((m, n_states), np.uint8)
    origin, kind = predecessors(n_states)
    fixed = (
        row_level,
        column_level,
        origin,
        kind,
        pulls(n_states),
        RAW_OF_LEVEL,
        tables.rate,
        rate_multiplier(n_states),
    )
    with one_thread():
        for first in range(0, n, _BLOCK):
            stop = min(first + _BLOCK, n)
            _search_block(target, weight, upper, first, stop, fresh, *fixed, state, way, points)
            if stop < n:
                errors = weight[first:stop] - points[first:stop].astype(np.float32)
                target[stop:] += upper[first:stop, stop:].T @ errors
    return points
