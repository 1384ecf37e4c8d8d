"""Many jobs on Ray, longest first, with a bound on what is in flight; a failed job is a row, never the end of the run.

Jobs and results are small on purpose: a job says *what* to read (names, byte ranges), the worker reads and writes the
bulk itself, and the result is one small row. Results up to 100 KB travel inside Ray's messages; tensors sent back this
way would pile up in the driver and in the object store.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from nwc_core.errors import (
    AlreadyExistsError,
    ClusterLostError,
    NotFoundError,
    NwcError,
    PermissionDeniedError,
    StoreError,
    UsageError,
    WorkerLostError,
)
from nwc_infra.capacity import Capacity, Turn, cluster_offer

R = TypeVar("R")

# Every library that a job may use computes with one thread. Sums split over threads depend on how many there are, and
# so would the bytes of an artifact; besides, workers times threads would oversubscribe the machine. Set in the worker's
# environment, since most libraries read it once, on import.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
# A worker that dies (a crash in native code, a lost node) gets three more chances; a job that kills every worker it
# meets must not have more.
_RETRIES = 3
# Pauses before a failed store is asked again, in seconds; the stores have their own quick retries below this.
_STORE_PAUSES = (0.5, 1.0, 2.0)
# What asking again can't change.
_FINAL = (NotFoundError, AlreadyExistsError, PermissionDeniedError)
# Ray keeps a queue per distinct resource request, so requests are rounded up to few distinct values.
_MEMORY_STEP = 64 << 20


@dataclass(frozen=True)
class Job:
    """One unit of work.

    Attributes:
        key: names the job in errors and in Ray's tools; breaks ties in the order.
        args: positional arguments of the function, small and picklable.
        nbytes: the most memory in bytes that the job holds at once in its worker. An underestimate means a worker
            killed for lack of memory.
    """

    key: str
    args: tuple[Any, ...]
    nbytes: int


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of a job: `error` is None and `value` is what the function returned, or `error` says what failed."""

    job: Job
    value: R | None
    error: NwcError | None


def run_bounded(
    function: Callable[..., R],
    jobs: Sequence[Job],
    *,
    shared: Mapping[str, object],
    max_bytes_in_flight: int | None = None,
    workers: int | None = None,
    capacity: Capacity | None = None,
) -> Iterator[Outcome[R]]:
    """Prevents running out of memory from too many large jobs at once, and one bad job taking the others with it.

    Calls ``function(*job.args, **shared)`` in Ray workers, one CPU and one thread each, and yields outcomes as jobs
    end. Longest first (by nbytes, then key): the long ones would otherwise be left alone at the end. A job larger than
    the bound runs by itself. Needs a connected Ray, see nwc_infra.cluster. Closing the iterator hands out no more
    jobs; the few that run end by themselves (cancelling them can abort the driver, in Ray 2.60).

    A job is tried again when its worker dies (3 times, then its error is a WorkerLostError) or its store fails in
    passing (3 times); any other error is final.

    Args:
        function: importable in the workers; returns a small row.
        jobs: in any order.
        shared: objects that every job needs, by argument name; stored once and read from there on every node.
        max_bytes_in_flight: bound on the sum of nbytes of the jobs handed to Ray, over the whole cluster; None for
            what its nodes offer.
        workers: bound on their number; None for one per CPU of the cluster.
        capacity: a bound besides, shared with other runs in threads of this process. Of runs that wait for room the
            one that was called first gets it. Room is free when a job ends, whether its run looks or not.

    Raises:
        UsageError: at once, for a job that no node can ever run.
        ClusterLostError: while iterating, if Ray itself is lost.
    """
    offer = cluster_offer()
    _check_can_run(jobs, offer.largest)
    slots = min(workers or offer.cpus, offer.cpus)
    bound = offer.nbytes if max_bytes_in_flight is None else max_bytes_in_flight
    turn = (capacity or Capacity(slots, max(bound, 1))).turn()
    return _run(function, jobs, shared, bound, slots, turn)


def _check_can_run(jobs: Sequence[Job], nbytes: int) -> None:
    """Prevents Ray's silent endless wait for a node that doesn't exist. `nbytes`: memory of the largest node."""
    for job in jobs:
        if _reserved(job) > nbytes:
            raise UsageError(
                f"{job.key}: needs {_reserved(job) / 1e6:,.0f} MB of memory in one worker; "
                f"the largest node of the Ray cluster offers {nbytes / 1e6:,.0f} MB"
            )


def _reserved(job: Job) -> int:
    """Bytes of memory that Ray sets aside for a job on its node, so that a node isn't given more than it can hold."""
    return -(-max(job.nbytes, 1) // _MEMORY_STEP) * _MEMORY_STEP


def _run(
    function: Callable[..., R],
    jobs: Sequence[Job],
    shared: Mapping[str, object],
    max_bytes: int,
    slots: int,
    turn: Turn,
) -> Iterator[Outcome[R]]:
    import ray

    waiting = deque(sorted(jobs, key=lambda job: (-job.nbytes, job.key)))
    running: dict[Any, Job] = {}
    ended: deque[tuple[Job, Any]] = deque()
    try:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES, runtime_env={"env_vars": ONE_THREAD})
        task: Any = remote(_call)
        function_ref = ray.put(function)
        refs = {name: ray.put(value) for name, value in shared.items()}

        def submit(job: Job) -> Any:
            return task.options(name=job.key, memory=_reserved(job)).remote(function_ref, job.args, **refs)

        def fits(job: Job) -> bool:
            return len(running) < slots and (
                not running or sum(j.nbytes for j in running.values()) + job.nbytes <= max_bytes
            )

        while waiting or running or ended:
            refused = False
            # Before an outcome is handed out: whoever takes it may be slow, and no CPU should wait for that.
            while waiting and not refused and fits(waiting[0]):
                ref = turn.start(waiting[0].nbytes, partial(submit, waiting[0]))
                refused = ref is None
                if not refused:
                    running[ref] = waiting.popleft()
            if ended:
                turn.rest()
                yield _outcome(*ended.popleft())
                continue
            ready = _ready(running, wait=not refused)
            if refused and not ready:
                turn.wait()
            turn.ended(ready)
            ended.extend((running.pop(ref), ref) for ref in ready)
    except ray.exceptions.RayError as error:
        raise ClusterLostError(f"the Ray cluster was lost: {_first_line(error)}") from error
    finally:
        turn.rest()


def _ready(running: Mapping[Any, Job], *, wait: bool) -> list[Any]:
    """One job that has ended, if there is one or can be waited for."""
    import ray

    if not running:
        return []
    ready: list[Any] = ray.wait(list(running), num_returns=1, timeout=None if wait else 0)[0]
    return ready


def _call(function: Callable[..., R], args: tuple[Any, ...], /, **shared: object) -> R:
    """One job, in the worker."""
    for pause in _STORE_PAUSES:
        try:
            return function(*args, **shared)
        except _FINAL:
            raise
        except StoreError:
            time.sleep(pause)
    return function(*args, **shared)


def _outcome(job: Job, ref: Any) -> Outcome[Any]:
    import ray

    try:
        return Outcome(job, ray.get(ref), None)
    except Exception as error:  # whatever it is, it concerns this job only
        return Outcome(job, None, _as_nwc_error(job, error))


def _as_nwc_error(job: Job, error: Exception) -> NwcError:
    """Prevents a failure that doesn't say which tensor it is about; the worker's traceback stays behind __cause__."""
    import ray

    cause = getattr(error, "cause", None) if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, NwcError):
        named = cause
    elif isinstance(cause, ray.exceptions.OutOfMemoryError):
        named = WorkerLostError(
            job.key, f"killed {_RETRIES + 1} times because its node ran out of memory: {_first_line(cause)}"
        )
    elif isinstance(cause, ray.exceptions.WorkerCrashedError | ray.exceptions.NodeDiedError):
        named = WorkerLostError(
            job.key,
            f"its worker process died {_RETRIES + 1} times: a crash in native code, a lost node, or the kernel's "
            "out-of-memory killer",
        )
    else:
        named = NwcError(f"{job.key}: {type(cause).__name__}: {_first_line(cause)}")
    named.__cause__ = error
    return named


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
