"""A driver for the race: a process that compresses, with all of the real protocol but without a Ray of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from nwc_core.errors import AlreadyExistsError, NwcError


def drive(source: str, destination: str, bits: float) -> tuple[str, str]:
    """Compress; ("created" or "the same was there", fingerprint), or (name of the error, its text)."""
    from nwc_core.codec import Codec
    from nwc_core.store import open_store
    from nwc_infra.cluster import RayCluster
    from nwc_workflows import compress as module
    from nwc_workflows import tasks
    from nwc_workflows.plan import CompressOptions, make_plan
    from nwc_workflows.resume import Begun

    tasks.run_bounded = _run_here  # type: ignore[assignment]
    # Without the claim, which would stop all but one before they do any work: this is about the commit.
    module.begin = lambda plan, destination: Begun(str(plan.bits), frozenset())  # type: ignore[assignment]
    module.cluster = lambda address, workers: nullcontext(RayCluster(None, 1))  # type: ignore[assignment]
    try:
        plan = make_plan(source, Codec.load("default"), CompressOptions(bits=bits, preset="fast"))
        result = module.compress(plan, open_store(destination))
    except AlreadyExistsError as error:
        return "AlreadyExistsError", str(error)
    except NwcError as error:
        return type(error).__name__, str(error)
    return ("created" if result.created else "the same was there"), result.manifest.fingerprint


def _run_here(
    function: Callable[..., Any], jobs: Sequence[Any], *, shared: Mapping[str, object], **_: object
) -> Iterator[Any]:
    from nwc_infra.scheduler import Outcome

    for job in jobs:
        yield Outcome(job, function(*job.args, **shared), None)
