"""The local Ray's life, refused addresses, and the scheduler's promises, on a real Ray."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nwc_core.errors import FormatError, NotFoundError, NwcError, StoreError, UsageError, WorkerLostError
from nwc_infra import cluster as cluster_module
from nwc_infra.cluster import RayCluster, cluster
from nwc_infra.scheduler import Job, Outcome, run_bounded

MB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _jobs_travel_by_value() -> Iterator[None]:
    """Workers can't import a test module."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _run(function, jobs, *, shared=None, max_bytes_in_flight=100 * MB, workers=None) -> list[Outcome]:
    return list(
        run_bounded(function, jobs, shared=shared or {}, max_bytes_in_flight=max_bytes_in_flight, workers=workers)
    )


def _nothing() -> None:
    """A job that succeeds."""


def _double(value: int, *, offset: int = 0) -> int:
    return 2 * value + offset


def _threads() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}


def _log_interval(folder: str, name: str) -> None:
    start = time.monotonic()
    time.sleep(0.2)
    Path(folder, name).write_text(f"{start} {time.monotonic()}")


def _fail(kind: str) -> None:
    if kind == "format":
        raise FormatError("model.safetensors", "7 bytes", "a header")
    if kind == "missing":
        raise NotFoundError("file:///x/y", "no such object")
    if kind == "bug":
        raise ZeroDivisionError("division by zero")
    if kind == "unpicklable":
        error = NwcError("holds a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error


def _die_unless(folder: str, attempts: int) -> int:
    """Kills its worker until it has been called so many times."""
    calls = len(list(Path(folder).iterdir()))
    Path(folder, str(calls)).touch()
    if calls < attempts:
        os._exit(1)
    return calls


def _flaky_store(folder: str, failures: int) -> int:
    calls = len(list(Path(folder).iterdir()))
    Path(folder, str(calls)).touch()
    if calls < failures:
        raise StoreError("s3://bucket/key", "connection reset")
    return calls


def _gone(folder: str) -> None:
    Path(folder, str(len(list(Path(folder).iterdir())))).touch()
    raise NotFoundError("s3://bucket/key", "no such object")


# ---- scheduler -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_cluster")
def test_largest_first_and_ties_by_key() -> None:
    jobs = [Job("b", (2,), 5), Job("c", (3,), 9), Job("a", (1,), 5), Job("d", (4,), 1)]
    outcomes = _run(_double, jobs, workers=1)
    assert [outcome.job.key for outcome in outcomes] == ["c", "a", "b", "d"]
    assert [outcome.value for outcome in outcomes] == [6, 2, 4, 8]
    assert all(outcome.error is None for outcome in outcomes)


@pytest.mark.usefixtures("ray_cluster")
def test_shared_objects_arrive_as_values_and_no_jobs_is_no_work() -> None:
    assert [outcome.value for outcome in _run(_double, [Job("a", (1,), 1)], shared={"offset": 40})] == [42]
    assert _run(_double, []) == []


@pytest.mark.usefixtures("ray_cluster")
def test_workers_compute_with_one_thread() -> None:
    (outcome,) = _run(_threads, [Job("a", (), 1)])
    assert outcome.value == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.mark.usefixtures("ray_cluster")
def test_bytes_in_flight_are_bounded_and_a_larger_job_runs_alone(tmp_path: Path) -> None:
    sizes = {"huge": 25, "big": 8, "small": 4, "tiny": 3}
    jobs = [Job(name, (str(tmp_path), name), size) for name, size in sizes.items()]
    outcomes = _run(_log_interval, jobs, max_bytes_in_flight=10)
    assert {outcome.error for outcome in outcomes} == {None}
    intervals = {path.name: tuple(map(float, path.read_text().split())) for path in tmp_path.iterdir()}
    assert intervals.keys() == sizes.keys()
    for start, _ in intervals.values():
        at_once = {name for name, (begin, end) in intervals.items() if begin <= start < end}
        assert at_once == {"huge"} or sum(sizes[name] for name in at_once) <= 10


@pytest.mark.usefixtures("ray_cluster")
def test_errors_come_back_as_they_were_raised_and_end_nothing() -> None:
    jobs = [Job(kind, (kind,), 1) for kind in ("format", "missing", "bug", "unpicklable", "none")]
    errors = {outcome.job.key: outcome.error for outcome in _run(_fail, jobs)}
    assert errors["none"] is None
    assert type(errors["format"]) is FormatError
    assert errors["format"].found == "7 bytes"
    assert type(errors["missing"]) is NotFoundError
    assert str(errors["missing"]) == "file:///x/y: no such object"
    assert type(errors["bug"]) is NwcError
    assert str(errors["bug"]) == "bug: ZeroDivisionError: division by zero"
    assert "_fail" in str(errors["bug"].__cause__)  # the worker's traceback
    assert isinstance(errors["unpicklable"], NwcError)
    assert "unpicklable" in str(errors["unpicklable"])


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_kills_every_worker_is_named_and_one_that_recovers_is_not(tmp_path: Path) -> None:
    always, once = tmp_path / "always", tmp_path / "once"
    always.mkdir()
    once.mkdir()
    jobs = [Job("layer.0.weight", (str(always), 99), 2), Job("layer.1.weight", (str(once), 1), 1)]
    outcomes = {outcome.job.key: outcome for outcome in _run(_die_unless, jobs)}
    assert outcomes["layer.1.weight"].value == 1
    error = outcomes["layer.0.weight"].error
    assert type(error) is WorkerLostError
    assert str(error).startswith("layer.0.weight: its worker process died 4 times")
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), copied.key, str(copied)) == (WorkerLostError, "layer.0.weight", str(error))
    assert len(list(always.iterdir())) == 4


@pytest.mark.usefixtures("ray_cluster")
def test_only_a_store_that_may_recover_is_asked_again(tmp_path: Path) -> None:
    flaky, gone = tmp_path / "flaky", tmp_path / "gone"
    flaky.mkdir()
    gone.mkdir()
    (recovered,) = _run(_flaky_store, [Job("a", (str(flaky), 1), 1)])
    assert recovered.value == 1
    (failed,) = _run(_gone, [Job("a", (str(gone),), 1)])
    assert type(failed.error) is NotFoundError
    assert len(list(gone.iterdir())) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_no_node_can_hold_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"^model\.embed: needs 1,000,000,\d+ MB .* offers [\d,]+ MB"):
        run_bounded(_nothing, [Job("model.embed", (), 10**15)], shared={}, max_bytes_in_flight=1)


# ---- cluster -------------------------------------------------------------------------------------------------------


def test_a_connection_that_exists_is_used_and_kept(ray_cluster: RayCluster) -> None:
    import ray

    assert ray_cluster.workers == 2
    with cluster(workers=1) as inner:
        assert inner.workers == 1
    assert ray.is_initialized()
    with pytest.raises(UsageError, match="already"), cluster("auto"):
        pass


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_or_none_is_refused() -> None:
    with pytest.raises(UsageError, match="has 2 CPUs; wanted 3"), cluster(workers=3):
        pass
    with pytest.raises(UsageError, match="at least 1"), cluster(workers=0):
        pass


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:99999", "ray://host"])
def test_an_address_of_the_wrong_form_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match=r"wanted auto, HOST:PORT or ray://HOST:PORT"):
        cluster_module._check_reachable(address)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


def test_nothing_at_the_address_is_told_at_once(deaf_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    for address in (f"127.0.0.1:{closed}", f"ray://127.0.0.1:{closed}"):
        with pytest.raises(NwcError, match=f"{address}: no Ray cluster answers there"):
            cluster_module._check_reachable(address)
    cluster_module._check_reachable(f"127.0.0.1:{deaf_port}")


def test_a_port_that_is_not_rays_does_not_hang(deaf_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 3.0)
    with pytest.raises(NwcError, match="did not answer as a Ray cluster"):
        cluster_module._check_answers(f"127.0.0.1:{deaf_port}")


_STOPPED = """
import os, signal, sys
from nwc_infra.cluster import cluster
number = int(sys.argv[1])
try:
    with cluster(workers=1) as running:
        import ray
        assert os.environ["RAY_ADDRESS"] and running.address is None  # an exported address is no order to use it
        print(ray.nodes()[0]["RayletSocketName"], flush=True)
        os.kill(os.getpid(), number)
        signal.pause()
finally:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow), (signal.SIGTERM, signal.SIGTERM)],
)
def test_the_local_ray_ends_with_a_block_that_a_signal_ends(number, code):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    command = [sys.executable, "-c", _STOPPED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == code
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert done.stderr == ""  # no dump of native stacks
    raylet = done.stdout.strip()
    assert raylet.endswith("raylet")
    with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as client:  # nobody listens there any more
        client.connect(raylet)
