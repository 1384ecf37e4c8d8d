"""Trellis search with error feedback (LDLQ): what a weight's rounding does to the output, later columns make up for.

The loss of a row is e H e', e its error. With H = U D U', U unit upper triangular, it is  sum_j d_j (t_j - w^_j)^2 , where the
target  t_j = w_j + sum_{i<j} e_i U_ij  follows from the errors e_i = w_i - w^_i of the columns before (LDLQ, Chee et al.
2023; the same as GPTQ, Frantar et al. 2023). All is in units of the columns' steps here: u_j = w_j / step_j and
U'_ij = U_ij step_i / step_j.

The trellis runs down a column, whose targets are known once the columns before are decided, and starts anew in each. (A
trellis along rows, every state with errors of its own, was measured to lose 0.05 bit, since paths that meet in a state have
different targets ahead.) One column is searched as 32 stretches side by side. Each stretch starts a little early, from
all states alike: after some steps the best paths are those of a search from the top, whatever it began with (as in
decoders of convolutional codes; Fettweis and Meyr 1989). The way back then goes through all stretches in turn.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nwc_core.blas import one_thread
from nwc_core.kernels import kernel
from nwc_core.prior import LEVELS, ShapeTables
from nwc_core.trellis import (
    RAW_OF_LEVEL,
    RENORMALISE,
    advance,
    candidates,
    nearest,
    predecessors,
    pulls,
    rate_multiplier,
    renormalise,
)
from nwc_core.vector import WIDTH, clip, load, store, to_float

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Errors reach the columns of their block one by one, those of their panel as a product of matrices for each block, and all
# others as one for each panel: the larger the product, the fewer times targets go through memory.
_BLOCK, _PANEL = 32, 256
_EARLY = 24  # steps, for each bit of the state, that a stretch starts early: 0.003 bit are lost, at 8 it would be 0.02


@kernel
def _search_column(  # type: ignore[no-untyped-def]
    target, rows, column, m, early, moves, origin, kind, pull, raw, rate, lam, decision, centre, cost, new, metric, end
):
    """Ways into all states in `decision` [steps, S], what they start from in `centre`, costs of ending in each in `end` [S].

    Row i is step i % steps of stretch i // steps: element WIDTH + step * WIDTH + stretch of `target` and `rows`, so that a
    step of all stretches is one vector.
    """
    steps, n_states = decision.shape
    for i in range(n_states * WIDTH):
        cost[i] = 0
    last_stretch, last_step = divmod(m - 1, steps)
    for t in range(-early, steps):
        back = (steps - 1 - min(t, 0)) // steps  # before its own start a stretch goes through that many earlier ones
        if t <= 0 and back * steps == -t:  # the top of the column, for the stretch that is so far down
            for s in range(n_states):
                cost[s * WIDTH + back] = 1e30 if s else 0
        at = WIDTH + (t + back * steps) * WIDTH - back
        v, level = load(target, at), clip(load(rows, at) + column, 0, LEVELS - 1)
        middle = candidates(v, level, pull, raw, rate, lam, metric)
        advance(cost, new, origin, kind, metric, decision[max(t, 0)])
        cost, new = new, cost
        if t % RENORMALISE == 0:
            renormalise(cost, n_states)
        if t >= 0:
            store(centre, t * WIDTH, middle)
        if t == last_step:
            for s in range(n_states):
                end[s] = cost[s * WIDTH + last_stretch]


@kernel
def _search_block(target, weight, upper, first, stop, columns, points, error, rows, m, early, moves, *search):  # type: ignore[no-untyped-def]
    """Decide columns [first, stop), with feedback among them, and their errors; see `search_columns`."""
    decision, centre, end = search[6], search[7], search[11]
    steps, n_states = decision.shape
    for j in range(first, stop):
        _search_column(target[j], rows, columns[j], m, early, moves, *search)
        state = np.int32(0)
        for s in range(1, n_states):
            if end[s] < end[state]:
                state = np.int32(s)
        last = m - 1
        for stretch in range((m - 1) // steps, -1, -1):
            for t in range(last - stretch * steps, -1, -1):
                move = moves[2 * state + (decision[t, state] >> np.uint32(stretch) & 1)]
                points[j, WIDTH + t * WIDTH + stretch] = move & 3
                state = move >> 2
            last = stretch * steps - 1
        some_points, some_error, some_weight = points[j], error[j - first], weight[j]
        for t in range(steps):
            at = WIDTH + t * WIDTH
            n = nearest(load(centre, t * WIDTH), load(some_points, at))
            store(some_points, at, n)
            store(some_error, at, load(some_weight, at) - to_float(n))
        for k in range(j + 1, stop):
            factor, later = upper[j, k], target[k]
            for at in range(WIDTH, later.size):
                later[at] += factor * some_error[at]


def search_columns(
    u: npt.NDArray[np.float32],
    row_level: npt.NDArray[np.int32],
    column_level: npt.NDArray[np.int32],
    n_states: int,
    tables: ShapeTables,
    upper: npt.NDArray[np.float32],
) -> npt.NDArray[np.int32]:
    """Points that make the weighted loss small, from a fresh trellis in every column.

    Args:
        u: [m, n] weights in units of their steps.
        row_level: [m], column_level: [n]: levels are their sums, clamped to the tables that exist.
        n_states: one of STATES.
        tables: the prior that will code the points.
        upper: [n, n] U', of which only what lies above the diagonal is used.

    Returns:
        [n, m] int32 points, column by column.
    """
    m, n = u.shape
    steps = -(-m // WIDTH)
    early = min(_EARLY * (n_states.bit_length() - 1), m - 1)
    rows = _by_steps(row_level[None], steps)[0]
    weight = _by_steps(u.T, steps)
    target, points = weight.copy(), np.zeros(weight.shape, np.int32)
    error = np.zeros((_PANEL, rows.size), np.float32)
    origin, kind = predecessors(n_states)
    costs = [np.empty(n_states * WIDTH, np.float32) for _ in range(2)]
    search = (
        rows,
        m,
        early,
        (origin << 2 | kind).reshape(-1),
        origin,
        kind,
        pulls(n_states),
        RAW_OF_LEVEL,
        tables.rate.reshape(-1),
        rate_multiplier(n_states),
        np.empty((steps, n_states), np.uint32),
        np.empty(steps * WIDTH, np.float32),
        *costs,
        np.empty(4 * WIDTH, np.float32),
        np.empty(n_states, np.float32),
    )
    with one_thread():
        for left in range(0, n, _PANEL):
            right = min(left + _PANEL, n)
            for first in range(left, right, _BLOCK):
                stop = min(first + _BLOCK, right)
                some = error[first - left : stop - left]
                _search_block(target, weight, upper, first, stop, column_level, points, some, *search)
                target[stop:right] += upper[first:stop, stop:right].T @ some
            target[right:] += upper[left:right, right:].T @ error[: right - left]
    return points[:, WIDTH:].reshape(n, steps, WIDTH).transpose(0, 2, 1).reshape(n, -1)[:, :m]


def _by_steps(columns: npt.NDArray[_Scalar], steps: int) -> npt.NDArray[_Scalar]:
    """Columns [n, m] as [n, WIDTH + steps * WIDTH]: zeros, then a vector for each step, see `_search_column`."""
    n, m = columns.shape
    padded = np.zeros((n, WIDTH * steps), columns.dtype)
    padded[:, :m] = columns
    vectors = np.zeros((n, WIDTH + WIDTH * steps), columns.dtype)
    vectors[:, WIDTH:].reshape(n, steps, WIDTH)[:] = padded.reshape(n, WIDTH, steps).transpose(0, 2, 1)
    return vectors
