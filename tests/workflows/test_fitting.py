"""Meeting a size exactly: which tasks are coded again, and at what rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nwc_workflows.allocate import LEAST_RATE
from nwc_workflows.fitting import TaskSize, corrected, fits

TASKS = st.lists(
    st.lists(st.tuples(st.floats(2.0, 8.0), st.integers(1 << 14, 1 << 22)), min_size=1, max_size=4).map(
        lambda blocks: TaskSize(tuple(rate for rate, _ in blocks), tuple(numel for _, numel in blocks))
    ),
    min_size=1,
    max_size=10,
)


def nbytes(tasks):
    return round(sum(r * n for task in tasks for r, n in zip(task.rates, task.numels, strict=True)) / 8)


@given(TASKS, st.floats(-0.02, 0.02))
def test_a_size_that_is_a_little_off_is_met_by_few_tasks_that_move_little(tasks, off):
    before = nbytes(tasks)
    wanted = round(before * (1 + off))
    again = corrected(tasks, before, wanted)
    after = [TaskSize(again.get(i, task.rates), task.numels) for i, task in enumerate(tasks)]
    assert fits(nbytes(after), wanted)
    assert again
    moves = [abs(new - old) for i in again for new, old in zip(again[i], tasks[i].rates, strict=True)]
    assert max(moves) < 0.4
    if len(again) > 1:  # without the smallest of them the others would have had to move farther than that
        largest = sorted((sum(tasks[i].numels) for i in again), reverse=True)
        assert abs(8 * (0.9985 * wanted - before)) > 0.05 * sum(largest[:-1])


def test_the_largest_task_makes_up_for_it():
    tasks = [TaskSize((4.0,), (1 << 16,)), TaskSize((4.0, 3.0), (1 << 20, 1 << 20))]
    assert list(corrected(tasks, nbytes(tasks), round(0.995 * nbytes(tasks)))) == [1]


def test_blocks_that_cannot_move_do_not_count():
    lossless, least = TaskSize((4.0,), (0,)), TaskSize((LEAST_RATE,), (1 << 20,))
    assert corrected([lossless, least], 1000, 900) == {}
    assert list(corrected([lossless, least], 1000, 100_000)) == [1]
    assert corrected([], 1000, 900) == {}


@pytest.mark.parametrize(("found", "fit"), [(995, True), (1000, True), (994, False), (1001, False)])
def test_what_fits(found, fit):
    assert fits(found, 1000) == fit
