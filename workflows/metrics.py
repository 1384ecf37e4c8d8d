"""Counters and histograms of the workers, through Ray: whoever scrapes the cluster's Prometheus endpoint finds them.

Names: nwc_tasks, nwc_source_bytes, nwc_payload_bytes (counters); nwc_stage_seconds (histogram, by stage: read, code, write).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from nwc_workflows.timeline import TaskSpan

_BOUNDARIES = [0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600]  # seconds


@cache
def _metrics() -> tuple[Any, Any, Any, Any]:
    from ray.util.metrics import Counter, Histogram

    return (
        Counter("nwc_tasks", "Tasks that were coded and stored."),
        Counter("nwc_source_bytes", "Bytes of weights that were coded."),
        Counter("nwc_payload_bytes", "Bytes of payloads that were stored."),
        Histogram("nwc_stage_seconds", "Time that a task takes.", _BOUNDARIES, ("stage",)),
    )


def observe(span: TaskSpan, payload_nbytes: int) -> None:
    """Count a task that has ended in this worker."""
    tasks, source, payload, seconds = _metrics()
    tasks.inc()
    for counter, amount in ((source, span.nbytes), (payload, payload_nbytes)):
        if amount:  # Ray refuses to add nothing
            counter.inc(amount)
    for name in ("read", "code", "write"):
        seconds.observe(getattr(span, f"{name}_seconds"), {"stage": name})
