"""A run's timeline as a trace that https://ui.perfetto.dev and chrome://tracing open: a row per worker, its tasks on it.

The format is the Trace Event Format of Chrome: complete events ("ph": "X"), times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from nwc_workflows.timeline import TaskSpan


def chrome_trace(spans: Iterable[TaskSpan]) -> bytes:
    """The trace, as JSON. Stages are drawn one behind the other, though a task of several blocks takes turns between them."""
    spans = list(spans)
    start = min((span.started for span in spans), default=0.0)
    nodes = {node: number for number, node in enumerate(sorted({span.node for span in spans}), start=1)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": node}} for node, number in nodes.items()
    ]
    for span in spans:
        events += _events(span, nodes[span.node], start)
    return json.dumps({"traceEvents": events, "otherData": {"started": start}}, separators=(",", ":")).encode()


def _events(span: TaskSpan, node: int, start: float) -> Iterator[dict[str, Any]]:
    place = {"ph": "X", "pid": node, "tid": span.pid}
    at = 1e6 * (span.started - start)
    args = {"bytes": span.nbytes, "resumed": span.resumed}
    yield {**place, "name": span.key, "cat": "task", "ts": round(at), "dur": round(1e6 * span.seconds), "args": args}
    stages = (("read", span.read_seconds), ("code", span.code_seconds), ("write", span.write_seconds))
    for name, seconds in stages:
        yield {**place, "name": name, "cat": "stage", "ts": round(at), "dur": round(1e6 * seconds)}
        at += 1e6 * seconds
