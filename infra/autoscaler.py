"""Waiting until a cluster that grows has grown: `python -m nwc_infra.autoscaler CPUS COMMAND ...`, then COMMAND.

A run takes the CPUs that are there when it starts: it bounds tasks by them, so that none waits inside Ray, where nothing
bounds their bytes. Without a demand Ray's autoscaler starts nothing, so the demand comes first.

Promises: the demand ends with the waiting, however that ends, so that no node is kept for nobody; what has come after some
minutes without a new node is taken for all that will come. The exit code is the command's. No shell is needed, which KubeRay
would take for one of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A machine takes one to three minutes until its image runs.
_PATIENCE_SECONDS = 300.0
_POLL_SECONDS = 1.0


def wait_for_cpus(cpus: int, patience: float = _PATIENCE_SECONDS) -> int:
    """Demands so many CPUs of the connected cluster, and waits for them.

    Args:
        cpus: of all nodes together, those that are there included.
        patience: seconds without a new CPU after which it waits no longer.

    Returns:
        How many there are.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    # One group a CPU: each is placed as soon as there is room, and then keeps its node from going idle. Groups belong to
    # the process that made them; the autoscaler's `request_resources` would outlive it.
    groups = [placement_group([{"CPU": 1}]) for _ in range(cpus)]
    try:
        there, since = _cpus_there(), time.monotonic()
        while there < cpus and time.monotonic() - since < patience:
            time.sleep(_POLL_SECONDS)
            now = _cpus_there()
            if now > there:
                since = time.monotonic()
            there = now
    finally:
        for group in groups:
            remove_placement_group(group)
    return there


def _cpus_there() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def main(arguments: list[str]) -> int:
    """Becomes the command; comes back only with wrong usage: 2. Raises OSError if there is no such command."""
    if len(arguments) < 2 or not arguments[0].isdigit() or int(arguments[0]) < 1:
        print("usage: python -m nwc_infra.autoscaler CPUS COMMAND ...", file=sys.stderr)
        return 2
    wanted, command, start = int(arguments[0]), arguments[1:], time.monotonic()
    with cluster_of_job():
        there = wait_for_cpus(wanted)
    print(
        f"{there} CPUs are there after {time.monotonic() - start:.0f} s; wanted {wanted}", file=sys.stderr, flush=True
    )
    return os.execvp(command[0], command)


@contextmanager
def cluster_of_job() -> Iterator[None]:
    """The cluster that this process runs on. `nwc_infra.cluster` would refuse one without a CPU, which may yet come."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
