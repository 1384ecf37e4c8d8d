"""A run's timeline as a trace that https://ui.perfetto.dev and chrome://tracing open: a row per worker, its tasks on it.

The format is the Trace Event Format of Chrome: complete events ("ph": "X"), times in microseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nwc_core.errors import FormatError
from nwc_core.strict_json import parse_json, shown
from nwc_workflows.timeline import TaskSpan

STAGES = ("read", "code", "write")
_MICROSECONDS = 1e6


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


@dataclass(frozen=True)
class TracedTask:
    """A task as a trace has it.

    Attributes:
        name: of the task.
        node: host name of the machine.
        pid: of the worker process.
        started: seconds since 1970.
        seconds: from start to end.
        stages: seconds of each of STAGES that it has.
        nbytes: of the source.
        resumed: an earlier run did it.
    """

    name: str
    node: str
    pid: int
    started: float
    seconds: float
    stages: dict[str, float]
    nbytes: int
    resumed: bool


def read_trace(data: bytes, where: str) -> list[TracedTask]:
    """The tasks of a trace that `chrome_trace` made, in its order; `where` names it in errors.

    Raises:
        FormatError: it is something else.
    """
    value = parse_json(data, where)
    try:
        start = _number(value["otherData"]["started"])
        nodes = {event["pid"]: str(event["args"]["name"]) for event in value["traceEvents"] if event["ph"] == "M"}
        tasks: list[TracedTask] = []
        for event in value["traceEvents"]:
            if event["ph"] != "X":
                continue
            seconds = _number(event["dur"]) / _MICROSECONDS
            if event["cat"] == "stage" and event["name"] in STAGES and tasks:
                tasks[-1].stages[event["name"]] = seconds
            elif event["cat"] == "task":
                started, args = start + _number(event["ts"]) / _MICROSECONDS, event["args"]
                place = nodes[event["pid"]], int(event["tid"])
                nbytes, resumed = int(args["bytes"]), bool(args["resumed"])
                tasks.append(TracedTask(str(event["name"]), *place, started, seconds, {}, nbytes, resumed))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(where, f"{type(error).__name__} {shown(str(error))}", "a timeline of nwc") from None
    return tasks


def _number(value: Any) -> float:
    """A number of seconds or microseconds since a time in this millennium or the last; ValueError for anything else."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value < 1e17
    ):
        raise ValueError(f"found {shown(value)}")
    return float(value)
