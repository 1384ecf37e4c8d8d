"""The Ray runtime: a local one that lives as long as a `with` block, or a running cluster that is only visited.

Promises: a local Ray never outlives its block, whatever ends it; a running cluster is never shut down; an address
where no Ray answers is an error within a minute, not a hang. Only an explicit address leads to a running cluster: with
none, a Ray that happens to run on this machine, or an exported RAY_ADDRESS, doesn't silently receive the work. (The
address "auto" honours both, as in Ray itself.)
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nwc_core.errors import NwcError, UsageError

# A host that drops packets answers nobody: waiting longer only delays the message.
_TCP_SECONDS = 5.0
# A healthy cluster takes 2-3 s. Without a bound, ray.init spends over two minutes on a port that isn't Ray's, deaf to
# Ctrl-C for most of them.
_CONNECT_SECONDS = 30.0
_PROBE = """
import logging, sys, ray
try:
    ray.init(address=sys.argv[1], logging_level=logging.CRITICAL, log_to_driver=False)
except Exception as error:
    sys.exit("nwc-probe:" + " ".join(str(error).split()))
"""

# Shared objects are small (a codec, factors), rows come back inline: a store of Ray's default 30 % of memory would only
# take memory from the tensors. Ray refuses to start with less than 75 MiB.
_OBJECT_STORE_FRACTION = 0.2
_OBJECT_STORE_MIN = 75 << 20
_OBJECT_STORE_MAX = 2 << 30


@dataclass(frozen=True)
class RayCluster:
    """The Ray that this process is connected to.

    Attributes:
        address: as given by the user; None for a local one.
        workers: how many one-CPU tasks may run at once.
    """

    address: str | None
    workers: int


@contextmanager
def cluster(address: str | None = None, workers: int | None = None) -> Iterator[RayCluster]:
    """Prevents a Ray that is left running after a crash, and a command that waits for ever for one that isn't there.

    Args:
        address: None starts a local Ray and stops it at the end of the block. "auto", "host:port" (the cluster's own
            port, 6379 by default) or "ray://host:port" (the client port, 10001 by default) connects to a running one.
            If this process is connected to Ray already and no address is given, that connection is used and kept.
        workers: tasks at once; None for one per CPU. A local Ray may be given more than there are cores.

    Raises:
        UsageError: fewer than one worker, more than the cluster's CPUs, or an address of the wrong form.
        NwcError: no Ray answered at the address, or the local one didn't start; the message says why.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: found {workers}; wanted at least 1")
    # Ray reads these when it is imported or started. Telemetry stays off; and the default number of retries after the
    # memory monitor has killed a task is unlimited: a job that never fits would run for ever.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", "3")
    import ray

    if ray.is_initialized():
        if address is not None:
            raise UsageError(f"address: found {address!r}, but this process is connected to Ray already; leave it out")
        yield RayCluster(None, _workers_of_running(workers, "the Ray that this process is connected to"))
        return
    with _own_sigterm() as take_back:
        try:
            if address is None:
                _start_local(workers)
            else:
                _connect(address)
            take_back()
            yield RayCluster(address, _workers_of_running(workers, address or "the local Ray"))
        finally:
            ray.shutdown()  # stops what this process started, only disconnects from what it didn't


@contextmanager
def _own_sigterm() -> Iterator[Callable[[], None]]:
    """Prevents that SIGTERM ends in a dump of native stacks: ray.init replaces the handlers of Python and of C.

    The function that is given, called behind ray.init, puts back the handler that there was; if there was none, it keeps
    Ray's of Python, which raises SystemExit. Afterwards all is as it was before.
    """
    before = signal.getsignal(signal.SIGTERM)
    # Python leaves signals to the main thread, and cannot put back a handler that is not its own.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield lambda: None
        return

    def take_back() -> None:
        rays = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, rays if before is signal.SIG_DFL else before)

    try:
        yield take_back
    finally:
        signal.signal(signal.SIGTERM, before)


def _workers_of_running(workers: int | None, where: str) -> int:
    """Prevents the silent endless wait of Ray for a request that no node can meet. Raises UsageError."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if cpus < (workers or 1):
        raise UsageError(f"{where}: has {cpus} CPUs; wanted {workers or 1}, one per worker")
    return workers or cpus


def _start_local(cpus: int | None) -> None:
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=_object_store_bytes(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        raise NwcError(f"Ray did not start on this machine: {_one_line(error)}") from error


def _object_store_bytes() -> int:
    """Prevents an object store larger than /dev/shm (64 MB in many containers), which Ray would put on a slow disk."""
    room = int(_OBJECT_STORE_FRACTION * _memory_bytes())
    with suppress(OSError):
        room = min(room, int(0.9 * shutil.disk_usage("/dev/shm").free))
    return max(_OBJECT_STORE_MIN, min(room, _OBJECT_STORE_MAX))


def _memory_bytes() -> int:
    """Memory of this machine, or of the container if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # not in a container; or the limit is the word "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _connect(address: str) -> None:
    import ray

    if address != "auto":
        _check_reachable(address)
    if not address.startswith("ray://"):  # the client protocol has a bound of its own, 30 s
        _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **options)
    except Exception as error:
        raise NwcError(f"{address}: cannot connect to Ray: {_one_line(error)}") from error


def _check_reachable(address: str) -> None:
    """Prevents Ray's two minutes of retries for a mistyped or dead host. Raises UsageError or NwcError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"address: found {address!r}; wanted auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TCP_SECONDS).close()
    except OSError as error:
        raise NwcError(f"{address}: no Ray cluster answers there: {_one_line(error)}") from error


def _check_answers(address: str) -> None:
    """Prevents a hang on a port that accepts connections but isn't Ray's (the dashboard's, say).

    A first connection is tried in a process of its own: ray.init can't be interrupted from within. Raises NwcError.
    """
    command = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CONNECT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NwcError(
            f"{address}: something is there, but it did not answer as a Ray cluster within {_CONNECT_SECONDS:.0f} s"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reasons = [line.removeprefix("nwc-probe:") for line in lines if line.startswith("nwc-probe:")]
        raise NwcError(f"{address}: cannot connect to Ray: {(reasons or lines)[-1]}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
