"""Running a catalog: models overlap on one Ray, so that the end of one leaves no worker idle while the next is planned.

A model that fails is reported, and the others go on. What concerns all of them (Ray is lost, the results' place refuses) ends
the run; models that are under way end with their task, and the next run goes on from there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_core.store import open_store
from nwc_infra.capacity import cluster_capacity
from nwc_infra.cluster import cluster
from nwc_workflows.catalog.file import Limits
from nwc_workflows.catalog.heartbeat import Heartbeat
from nwc_workflows.catalog.members import Member
from nwc_workflows.catalog.model import Result, Shop, done_already
from nwc_workflows.catalog.records import Records, Status
from nwc_workflows.catalog.shares import Share
from nwc_workflows.catalog.threads import Stop, run_side_by_side
from nwc_workflows.catalog.waits import Waits
from nwc_workflows.progress import Progress
from nwc_workflows.scratch import Show, check_reachable

_RATE = "NWC_S3_REQUESTS_PER_SECOND"
# Models that overlap, if the file does not say: a small model is one task, so it takes as many as there are workers; each
# has a thread here and its plan in memory (about 1 MB for 1,000 tensors).
_CHECKERS = 16  # models looked at at once, with some requests each
_LEAST_MODELS, _MOST_MODELS = 4, 32


@dataclass(frozen=True)
class CatalogResult:
    """A run that came to its end: what became of each model, in the order of their ends, and the wall time."""

    results: tuple[Result, ...]
    seconds: float

    def count(self, outcome: str) -> int:
        return sum(result.outcome == outcome for result in self.results)


def run_catalog(
    members: Sequence[Member],
    root: str,
    codec: Codec,
    *,
    show: Show,
    limits: Limits | None = None,
    address: str | None = None,
    workers: int | None = None,
    on_end: Callable[[Result], None] = lambda result: None,
) -> CatalogResult:
    """Compress all models that are not compressed yet. If all are, no Ray is needed.

    Args:
        members: from `find_members`.
        root: URI of the catalog's results.
        codec: of all.
        show: shows the progress, by the bytes of the models that are left to do.
        limits: of the file.
        address: of a running Ray cluster; None starts a local one for the duration.
        workers: tasks at once, instead of the limits'.
        on_end: told of each model's end, one at a time; first of those that are done already.

    Raises:
        NwcError: what concerns all models: Ray, or the results' place.
        KeyboardInterrupt: models under way have ended between two tasks, or were given half a minute to.
    """
    started = time.monotonic()
    limits = limits or Limits()
    _check_scratch(members, address)
    with _paced(limits, 0):
        records = Records(open_store(root, "destination"))
        known = records.read_all(set(records.names()) & {member.name for member in members})
        results = list(_done_already(members, known, codec))
    for result in results:
        on_end(result)
    ended = {result.member.name for result in results}
    left = [member for member in members if member.name not in ended]
    if left:
        at_once = workers or limits.workers
        nbytes = sum(member.nbytes for member in left)
        with cluster(address, at_once) as ray, show(nbytes, "compress", "B") as progress:
            results += _run(left, known, root, codec, progress, limits, ray.workers, on_end)
    return CatalogResult(tuple(results), time.monotonic() - started)


def _done_already(members: Sequence[Member], known: Mapping[str, Status | None], codec: Codec) -> Iterator[Result]:
    """Those whose record says so, where that is still true."""
    candidates = [member for member in members if known.get(member.name) is not None]
    with ThreadPoolExecutor(_CHECKERS) as pool:
        for result in pool.map(lambda member: done_already(member, known[member.name], codec), candidates):
            if result is not None:
                yield result


def _run(
    members: Sequence[Member],
    known: Mapping[str, Status | None],
    root: str,
    codec: Codec,
    progress: Progress,
    limits: Limits,
    workers: int,
    on_end: Callable[[Result], None],
) -> list[Result]:
    memory = None if limits.memory_gib is None else int(limits.memory_gib * (1 << 30))
    results: list[Result] = []
    stop, lock = Stop(), threading.Lock()
    with _paced(limits, workers):
        store = open_store(root, "destination")
        waits = Waits(members)
        with Heartbeat(Records(store)) as heartbeat:
            shop = Shop(store, codec, cluster_capacity(workers, memory), workers, Records(store), heartbeat)

            def treat(member: Member) -> None:
                share = Share(progress, lock, member.nbytes, stop)
                result = shop.treat(member, known.get(member.name), share, lambda: waits.for_base(member, stop))
                waits.ended(result)
                share.finish()
                with lock:
                    results.append(result)
                    on_end(result)

            threads = limits.models or min(max(workers, _LEAST_MODELS), _MOST_MODELS)
            run_side_by_side(treat, members, threads, stop)
    return results


def _check_scratch(members: Sequence[Member], address: str | None) -> None:
    """Raises UsageError if artifacts on trial would lie where the cluster's machines do not reach them."""
    for member in members:
        if member.request.runs_model:
            try:
                check_reachable(member.request.scratch, address)
            except UsageError as error:
                raise UsageError(f"{member.name}: {error}") from None


@contextmanager
def _paced(limits: Limits, workers: int) -> Iterator[None]:
    """Stores that are opened inside keep the pace, in this process and in workers, which get the options with a store.

    Each process has an equal part, this one too: it reads headers while they read weights. An own setting of the
    environment counts where the file says nothing.
    """
    before = os.environ.get(_RATE)
    if limits.requests_per_second is not None:
        os.environ[_RATE] = repr(limits.requests_per_second / (workers + 1))
    try:
        yield
    finally:
        os.environ.pop(_RATE, None)
        if before is not None:
            os.environ[_RATE] = before
