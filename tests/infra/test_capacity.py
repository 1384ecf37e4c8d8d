"""Room that several runs share: the order of runs alone, then runs in threads on a real Ray."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from nwc_core.errors import UsageError
from nwc_infra.capacity import Capacity, Turn, cluster_capacity
from nwc_infra.scheduler import Job, run_bounded

PATIENCE = 60.0  # seconds, for what takes milliseconds


@pytest.fixture(scope="module", autouse=True)
def _jobs_travel_by_value() -> Iterator[None]:
    """Workers can't import a test module."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


# ---- the order, without Ray ------------------------------------------------------------------------------------------


def starts(turn: Turn, nbytes: int, name: str = "job") -> bool:
    return turn.start(nbytes, lambda: name) is not None


def test_slots_and_bytes_are_bounded_over_all_runs():
    capacity = Capacity(slots=2, nbytes=10)
    first, second = capacity.turn(), capacity.turn()
    assert starts(first, 6, "a")
    assert not starts(second, 5)  # bytes
    assert starts(second, 4, "b")
    assert not starts(second, 0)  # slots
    second.ended(["a"])
    assert starts(second, 0, "c")


def test_a_job_larger_than_the_bound_has_room_when_nothing_else_is_in_flight():
    capacity = Capacity(slots=3, nbytes=10)
    first, second = capacity.turn(), capacity.turn()
    assert starts(first, 1, "small")
    assert not starts(second, 25, "huge")
    first.ended(["small"])
    assert starts(second, 25, "huge")
    assert not starts(first, 0)


def test_of_runs_that_want_room_the_earliest_gets_it():
    capacity = Capacity(slots=1, nbytes=10)
    runs = [capacity.turn() for _ in range(3)]
    assert starts(runs[1], 1, "a")
    assert not any(starts(run, 1) for run in reversed(runs))
    runs[1].ended(["a"])
    assert not starts(runs[2], 1)
    assert not starts(runs[1], 1)
    assert starts(runs[0], 1, "b")
    runs[0].ended(["b"])
    assert not starts(runs[2], 1)
    assert starts(runs[1], 1, "c")


def test_a_large_job_is_not_starved_by_small_ones_of_later_runs():
    capacity = Capacity(slots=4, nbytes=10)
    first, second = capacity.turn(), capacity.turn()
    assert starts(second, 2, "a")
    assert not starts(first, 9)
    assert not starts(second, 2)  # it would fit
    second.ended(["a"])
    assert starts(first, 9, "b")


def test_room_that_the_earlier_run_does_not_want_now_is_the_later_ones():
    capacity = Capacity(slots=1, nbytes=10)
    first, second = capacity.turn(), capacity.turn()
    assert starts(second, 1, "a")
    assert not starts(first, 1)
    first.rest()
    second.ended(["a"])
    assert starts(second, 1, "b")


def test_all_runs_of_a_place_come_before_those_of_a_later_one():
    capacity = Capacity(slots=1, nbytes=10)
    model, other = capacity.place(), capacity.place()
    others = other.turn()
    late = model.turn(), model.turn()  # among them in the order of their calls
    assert (model.slots, model.nbytes) == (1, 10)
    assert starts(others, 1, "a")
    assert not any(starts(run, 1) for run in (others, *reversed(late)))
    others.ended(["a"])
    assert not starts(others, 1)
    assert not starts(late[1], 1)
    assert starts(late[0], 1, "b")


def test_what_was_said_to_have_ended_twice_frees_its_room_once():
    capacity = Capacity(slots=2, nbytes=10)
    turn = capacity.turn()
    assert starts(turn, 1, "a")
    assert starts(turn, 1, "b")
    turn.ended(["a", "a", "unknown"])
    assert starts(turn, 1, "c")
    assert not starts(turn, 1)


def test_a_job_that_could_not_be_handed_over_takes_no_room():
    turn = Capacity(slots=1, nbytes=10).turn()
    with pytest.raises(ZeroDivisionError):
        turn.start(1, lambda: 1 // 0)
    assert starts(turn, 1)


@pytest.mark.parametrize(("slots", "nbytes", "named"), [(0, 1, "slots 0"), (1, 0, "nbytes 0"), (-1, 1, "slots -1")])
def test_no_room_at_all_is_refused(slots, nbytes, named):
    with pytest.raises(UsageError, match=f"capacity: found {named}; wanted at least 1"):
        Capacity(slots, nbytes)


# ---- on Ray ----------------------------------------------------------------------------------------------------------


def _log_interval(folder: str, name: str) -> None:
    start = time.monotonic()
    time.sleep(0.05)
    Path(folder, name).write_text(f"{start} {time.monotonic()}")


def _wait_for(folder: str, name: str) -> str:
    """Touches NAME.started and ends when NAME.end is there."""
    Path(folder, f"{name}.started").touch()
    deadline = time.monotonic() + 60
    while not Path(folder, f"{name}.end").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return name


def _nothing() -> None:
    """A job that succeeds."""


def _run(function, jobs, capacity) -> list[str]:
    outcomes = run_bounded(function, jobs, shared={}, capacity=capacity)
    return [outcome.job.key for outcome in outcomes if outcome.error is None]


def _in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _wait_until(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.005)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("capacity", [Capacity(1, 1000), Capacity(2, 10)], ids=["slots", "bytes"])
def test_runs_in_threads_share_one_bound(tmp_path, capacity):
    done: dict[str, list[str]] = {}

    def run(model: str) -> None:
        jobs = [Job(f"{model}{i}", (str(tmp_path), f"{model}{i}"), 6) for i in range(3)]
        done[model] = _run(_log_interval, jobs, capacity)

    threads = [_in_thread(lambda model=model: run(model)) for model in "ab"]
    for thread in threads:
        thread.join(PATIENCE)
    assert done == {model: [f"{model}{i}" for i in range(3)] for model in "ab"}
    intervals = sorted(tuple(map(float, path.read_text().split())) for path in tmp_path.iterdir())
    assert len(intervals) == 6
    assert all(one[1] <= next_one[0] for one, next_one in pairwise(intervals))


@pytest.mark.usefixtures("ray_cluster")
def test_a_later_run_fills_the_room_beside_an_earlier_one(tmp_path):
    capacity = Capacity(2, 1000)
    ended: list[str] = []
    jobs = [Job("long", (str(tmp_path), "long"), 1)]
    earlier = _in_thread(lambda: ended.extend(_run(_wait_for, jobs, capacity)))
    _wait_until(tmp_path / "long.started")
    assert _run(_nothing, [Job(f"short{i}", (), 1) for i in range(3)], capacity) == ["short0", "short1", "short2"]
    assert ended == []
    (tmp_path / "long.end").touch()
    earlier.join(PATIENCE)
    assert ended == ["long"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_with_a_job_of_its_own_running_notices_room_that_another_frees(tmp_path):
    capacity = Capacity(2, 1000)
    jobs = [Job(name, (str(tmp_path), name), 1) for name in ("a1", "a2")]
    first = _in_thread(lambda: _run(_wait_for, [Job("b", (str(tmp_path), "b"), 1)], capacity))
    _wait_until(tmp_path / "b.started")
    second = _in_thread(lambda: _run(_wait_for, jobs, capacity))
    _wait_until(tmp_path / "a1.started")
    (tmp_path / "b.end").touch()
    _wait_until(tmp_path / "a2.started")  # while a1 goes on
    for name in ("a1", "a2"):
        (tmp_path / f"{name}.end").touch()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert not first.is_alive()
    assert not second.is_alive()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("close", [False, True], ids=["forgotten", "closed"])
def test_jobs_of_a_run_that_was_given_up_take_room_until_they_end_and_no_longer(tmp_path, close):
    """As after an error in the thread of a model: the error's traceback may keep the run alive."""
    capacity = Capacity(1, 1000)
    (tmp_path / "x0.end").touch()
    jobs = [Job(name, (str(tmp_path), name), 1) for name in ("x0", "x1", "x2")]
    given_up = run_bounded(_wait_for, jobs, shared={}, capacity=capacity)
    assert next(given_up).value == "x0"
    _wait_until(tmp_path / "x1.started")
    if close:
        given_up.close()
    ended: list[str] = []
    other = _in_thread(lambda: ended.extend(_run(_log_interval, [Job("y", (str(tmp_path), "y"), 1)], capacity)))
    while not capacity._room.wanting and other.is_alive():
        time.sleep(0.005)
    assert other.is_alive()  # it waits: there is no room yet
    (tmp_path / "x1.end").touch()
    other.join(PATIENCE)
    assert ended == ["y"]
    assert not (tmp_path / "x2.started").exists()
    given_up.close()


@pytest.mark.usefixtures("ray_cluster")
def test_the_room_of_a_cluster():
    offered = cluster_capacity()
    assert offered.slots == 2
    assert offered.nbytes > 1 << 20
    bounded = cluster_capacity(workers=1, nbytes=1 << 20)
    assert (bounded.slots, bounded.nbytes) == (1, 1 << 20)
    generous = cluster_capacity(workers=100, nbytes=1 << 60)
    assert (generous.slots, generous.nbytes) == (offered.slots, offered.nbytes)
    with pytest.raises(UsageError, match="slots 0"):
        cluster_capacity(workers=0)


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_no_node_can_hold_is_refused_at_once_and_keeps_no_room():
    capacity = Capacity(1, 10)
    with pytest.raises(UsageError, match=r"^model\.embed: needs 1,000,000,\d+ MB"):
        run_bounded(_nothing, [Job("model.embed", (), 10**15)], shared={}, capacity=capacity)
    assert _run(_nothing, [Job("small", (), 1)], capacity) == ["small"]
