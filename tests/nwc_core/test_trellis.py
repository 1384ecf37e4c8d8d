"""The search is optimal among its candidates, close to the best of all points, and its paths are the trellis's."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from codec_samples import sample_codec, sigma
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core import trellis
from nwc_core.prior import LEVELS, RATE_SPAN, raw_bits
from nwc_core.rans import MAX_LANES, decode_segment, encode_segment
from nwc_core.trellis import STATES, search, transitions

TABLES = sample_codec().prior.tables
Weights = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]


def point_costs(
    u: Weights, n: npt.NDArray[np.integer], level: Levels, shape: int, n_states: int
) -> npt.NDArray[np.float64]:
    """(u - n)^2 + lambda * bits of every point."""
    at = np.clip((n >> raw_bits(level)) + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
    bits = TABLES[shape].rate[level, at].astype(np.float64)
    return (u.astype(np.float64) - n) ** 2 + float(trellis.rate_multiplier(n_states)) * bits


def own_candidates(u: Weights, level: Levels, n_states: int) -> npt.NDArray[np.int32]:
    """[N, 4] the one point of each class n mod 4 that the search looks at, in its own arithmetic."""
    pull = np.clip(u * trellis.pulls(n_states)[level], -trellis.MAX_PULL, trellis.MAX_PULL)
    c = np.arange(4, dtype=np.float32)
    quarters = np.floor(((u - pull)[:, None] - c) * np.float32(0.25) + np.float32(0.5))
    return 4 * quarters.astype(np.int32) + np.arange(4, dtype=np.int32)


def plain_search(u: Weights, level: Levels, shape: int, n_states: int) -> npt.NDArray[np.int32]:
    """What `search` does in one lane, step by step and in the same float32: its results to the last bit and tie."""
    candidates, move = own_candidates(u, level, n_states), transitions(n_states)
    at = np.clip((candidates >> raw_bits(level)[:, None]) + RATE_SPAN, 0, 2 * RATE_SPAN - 1)
    off = u[:, None] - candidates.astype(np.float32)
    metric = off * off + trellis.rate_multiplier(n_states) * TABLES[shape].rate[level[:, None], at]
    ways = [
        [(s, 2 * p + (s & 1)) for s in range(n_states) for p in (0, 1) if move[s, p] == new] for new in range(n_states)
    ]
    cost, chosen = np.full(n_states, np.float32(1e30)), []
    cost[0] = 0
    for t in range(u.size):
        if t % trellis.RENORMALISE == 0:
            cost = cost - cost.min()
        both = np.array([[cost[s] + metric[t, c] for s, c in entering] for entering in ways], np.float32)
        chosen.append(both.argmin(1))  # the first where both are equal
        cost = both.min(1)
    state, points = int(cost.argmin()), np.empty(u.size, np.int32)
    for t in range(u.size - 1, -1, -1):
        state, c = ways[state][chosen[t][state]]
        points[t] = candidates[t, c]
    return points


@settings(deadline=None, max_examples=30)
@given(
    n_states=st.sampled_from(STATES),
    lanes=st.integers(1, MAX_LANES),
    count=st.integers(1, 200),
    levels=st.sampled_from([(0, 20), (24, 70), (0, LEVELS - 1), (90, LEVELS - 1)]),
    grid=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1 << 30),
)
def test_search_in_vectors_is_the_plain_search(
    n_states: int, lanes: int, count: int, levels: tuple[int, int], grid: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    level = rng.integers(levels[0], levels[1] + 1, count).astype(np.uint8)
    u = (rng.standard_normal(count) * [min(sigma(int(lev)), 2e4) for lev in level]).astype(np.float32)
    if grid:  # half way between points, where paths tie
        u = np.rint(u / np.float32(grid)) * np.float32(grid)
    points = search(u, level, lanes, n_states, TABLES[1])
    assert points.shape == u.shape
    for lane in range(min(lanes, count)):
        mine = slice(lane, None, lanes)
        assert (points[mine] == plain_search(u[mine], level[mine], 1, n_states)).all()


@pytest.mark.parametrize("n_states", [1, 8])
def test_search_in_vectors_past_the_renormalisation(n_states: int) -> None:
    rng = np.random.default_rng(8)
    level = rng.integers(0, 80, 300).astype(np.uint8)
    u = (rng.standard_normal(300) * [sigma(int(lev)) for lev in level]).astype(np.float32)
    assert (search(u, level, 1, n_states, TABLES[0]) == plain_search(u, level, 0, n_states)).all()


def own_costs(u: Weights, level: Levels, shape: int, n_states: int) -> npt.NDArray[np.float64]:
    """[N, 4] cost of the one point of each class n mod 4 that the search looks at."""
    points = own_candidates(u, level, n_states)
    assert (points % 4 == np.arange(4)).all()
    return np.stack([point_costs(u, points[:, c], level, shape, n_states) for c in range(4)], axis=1)


def best_costs(u: Weights, level: Levels, shape: int, n_states: int) -> npt.NDArray[np.float64]:
    """[N, 4] least cost over all points of each class.

    The rate term is at most 0.46 * 31 bits, so no point more than 5 from u can beat the nearest one of its class.
    """
    classes = []
    for c in range(4):
        nearest = 4 * np.rint((u.astype(np.float64) - c) / 4).astype(np.int64) + c
        near = [point_costs(u, nearest + 4 * j, level, shape, n_states) for j in range(-2, 3)]
        classes.append(np.min(near, axis=0))
    return np.stack(classes, axis=1)


def brute_force(costs: npt.NDArray[np.float64], n_states: int) -> float:
    """Least cost over all 2^N sequences of parities."""
    move, best = transitions(n_states), np.inf
    for parities in itertools.product((0, 1), repeat=len(costs)):
        state, total = 0, 0.0
        for t, parity in enumerate(parities):
            total += costs[t, 2 * parity + (state & 1)]
            state = int(move[state, parity])
        best = min(best, total)
    return best


def viterbi(costs: npt.NDArray[np.float64], n_states: int) -> float:
    """The same for long sequences, by dynamic programming."""
    move, path = transitions(n_states), np.full(n_states, np.inf)
    path[0] = 0
    states = np.arange(n_states)
    for row in costs:
        new = np.full(n_states, np.inf)
        for parity in (0, 1):
            np.minimum.at(new, move[:, parity], path + row[2 * parity + (states & 1)])
        path = new
    return float(path.min())


def path_cost(u: Weights, level: Levels, points: npt.NDArray[np.int32], shape: int, n_states: int) -> float:
    """Cost of one lane's points; fails if they do not follow the trellis."""
    move, state = transitions(n_states).tolist(), 0
    for n in points.tolist():
        assert n & 1 == state & 1
        state = move[state][n >> 1 & 1]
    return float(point_costs(u, points, level, shape, n_states).sum())


@pytest.mark.parametrize("n_states", STATES)
def test_the_code(n_states: int) -> None:
    """Every state is entered twice, by two parities or two states, with points of one subset: Ungerboeck's rules."""
    move = transitions(n_states)
    assert move.min() >= 0
    assert np.bincount(move.reshape(-1), minlength=n_states).tolist() == [2] * n_states
    if n_states > 1:
        assert (move[:, 0] != move[:, 1]).all()
        entering = [{(s & 1) for s in range(n_states) if target in move[s]} for target in range(n_states)]
        assert all(len(subsets) == 1 for subsets in entering)


@pytest.mark.parametrize(
    ("n_states", "first"),
    [(4, [[0, 1], [2, 3], [1, 0], [3, 2]]), (8, [[0, 2], [5, 7], [1, 3], [4, 6], [2, 0], [7, 5], [3, 1], [6, 4]])],
)
def test_the_code_stays_what_streams_were_written_with(n_states: int, first: list[list[int]]) -> None:
    assert transitions(n_states).tolist() == first


@settings(deadline=None, max_examples=60)
@given(
    n_states=st.sampled_from([1, 4, 8]),
    lanes=st.integers(1, 5),
    count=st.integers(1, 22),
    shape=st.integers(0, 1),
    levels=st.sampled_from([(0, 20), (16, 32), (24, 70), (0, LEVELS - 1), (90, LEVELS - 1)]),
    stretch=st.sampled_from([0.5, 1.0, 4.0]),
    seed=st.integers(0, 1 << 30),
)
def test_search_finds_the_best_path_among_its_candidates(
    n_states: int, lanes: int, count: int, shape: int, levels: tuple[int, int], stretch: float, seed: int
) -> None:
    count = min(count, 8 * lanes - 1)
    rng = np.random.default_rng(seed)
    level = rng.integers(levels[0], levels[1] + 1, count).astype(np.uint8)
    u = (rng.standard_normal(count) * stretch * [min(sigma(int(lev)), 2e4) for lev in level]).astype(np.float32)
    points = search(u, level, lanes, n_states, TABLES[shape])
    for lane in range(min(lanes, count)):
        mine = slice(lane, None, lanes)
        found = path_cost(u[mine], level[mine], points[mine], shape, n_states)
        best = brute_force(own_costs(u[mine], level[mine], shape, n_states), n_states)
        assert found == pytest.approx(best, rel=1e-5, abs=1e-4)


def sources(name: str, count: int) -> npt.NDArray[np.float64]:
    """Samples of unit variance, more or less."""
    rng = np.random.default_rng(5)
    if name == "gauss":
        return rng.standard_normal(count)
    if name == "laplace":
        return rng.laplace(size=count) / np.sqrt(2)
    if name == "student":
        return rng.standard_t(2, count) / 3
    outliers = np.where(rng.random(count) < 0.01, 20, 1)
    x = rng.standard_normal(count) * outliers
    return x / x.std()


@pytest.mark.parametrize("n_states", [1, 8])
@pytest.mark.parametrize("level", [8, 12, 20, 28, 40])
@pytest.mark.parametrize("source", ["gauss", "laplace", "student", "outliers"])
def test_candidates_suffice(source: str, level: int, n_states: int) -> None:
    """One candidate per class costs at most 0.004 bit per weight against all points; nothing on a Gaussian."""
    count, shape = 3000, int(source != "gauss")
    u = (sources(source, count) * sigma(level)).astype(np.float32)
    levels = np.full(count, level, np.uint8)
    points = search(u, levels, 1, n_states, TABLES[shape])
    found = path_cost(u, levels, points, shape, n_states)
    best = viterbi(best_costs(u, levels, shape, n_states), n_states)
    bits_lost = (found - best) / count / float(trellis.rate_multiplier(n_states))
    assert -1e-4 < bits_lost < (0.0002 if source == "gauss" else 0.004)


def test_outliers_are_not_dragged_toward_zero() -> None:
    """A weight that its level does not foresee is still coded within two steps of itself."""
    level = np.zeros(64, np.uint8)
    for size in (30.0, 1e3, 1e6):
        u = np.zeros(64, np.float32)
        u[5], u[40] = size, -size
        assert np.abs(search(u, level, 1, 8, TABLES[0]) - u).max() <= 2


@pytest.mark.parametrize("n_states", STATES)
@pytest.mark.parametrize("lanes", [1, 7, MAX_LANES])
def test_paths_of_every_code_are_coded_and_decoded(n_states: int, lanes: int) -> None:
    """Long sequences, past the renormalisation of path costs, with whole and broken last steps."""
    rng = np.random.default_rng(n_states)
    for count in (lanes * 200, lanes * 200 + lanes // 2 + 1):
        level = rng.integers(10, 90, count).astype(np.uint8)
        u = (rng.standard_normal(count) * [sigma(int(lev)) for lev in level]).astype(np.float32)
        points = search(u, level, lanes, n_states, TABLES[0])
        # Neighbours of one subset are two apart and of one class four; the path is rarely farther than a class.
        assert np.abs(points - u).max() < 5
        segment = encode_segment(points, level, lanes, transitions(n_states), TABLES[0])
        assert (decode_segment(segment, level, transitions(n_states), TABLES[0], "x") == points).all()


def test_more_states_are_better() -> None:
    u = (sources("gauss", 20_000) * sigma(40)).astype(np.float32)
    level = np.full(u.size, 40, np.uint8)
    costs = []
    for n_states in STATES[1:]:
        points = search(u, level, 1, n_states, TABLES[0])
        costs.append(path_cost(u, level, points, 0, n_states))
    assert costs == sorted(costs, reverse=True)
