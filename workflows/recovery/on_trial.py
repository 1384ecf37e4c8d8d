"""Compressing with a recovery: the artifact is made and tuned in a scratch place, and only then copied to the destination."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from nwc_core.store import Store, open_store
from nwc_infra.capacity import Capacity
from nwc_infra.cluster import cluster
from nwc_workflows.compress import CompressResult, compress, find_finished, work
from nwc_workflows.plan import Plan
from nwc_workflows.recovery.recover import Recovered, Recovery
from nwc_workflows.scratch import Made, Show, check_reachable, publish, scratch_place


def compress_and_recover(
    plan: Plan,
    destination: Store,
    recovery: Recovery,
    *,
    show: Show,
    scratch: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    capacity: Capacity | None = None,
) -> tuple[CompressResult, Recovered | None]:
    """Run a plan whose size is known, with a recovery.

    Args:
        plan: with room for it, see `Recovery.reserve`.
        destination: where the artifact goes.
        recovery: tunes it.
        show: shows the progress of each step.
        scratch: URI below which the artifact is made; None for a temporary folder of this machine.
        address, workers, capacity: as for `compress`.

    Returns:
        The compression, and what was recovered: None if the artifact was there already.

    Raises:
        UsageError: a cluster, and no scratch place that its machines reach.
        NwcError: whatever `compress` and `Recovery.run` raise; nothing was written to the destination.
    """
    started = time.monotonic()
    check_reachable(scratch, address)
    there = find_finished(plan, destination)
    if there is not None:
        return there, None
    with scratch_place(scratch) as place:
        store = open_store(f"{place}/artifact", "destination")
        with cluster(address, workers) as ray_cluster, show(work(plan), "compress", "B") as progress:
            bounds: dict[str, Any] = {"workers": ray_cluster.workers, "capacity": capacity}
            made = Made(compress(plan, store, **bounds, on_progress=progress.advance), store)
        made = recovered(made, plan, recovery, show)
        created = publish(made, plan, destination)
    return replace(made.result, created=created, seconds=time.monotonic() - started), made.recovered


def recovered(made: Made, plan: Plan, recovery: Recovery, show: Show, description: str = "recover") -> Made:
    """The same artifact with its free tensors tuned, at the same place."""
    with show(60 * recovery.minutes, description, "seconds") as progress:
        result, found = recovery.run(plan, made.result, made.store, progress.advance)
    return Made(result, made.store, found)
