"""Who did what when: a bar for each model of a catalog, and for each worker its tasks, where a run has recorded them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nwc_workflows.catalog.records import Status
from nwc_workflows.catalog.status import ModelStatus
from nwc_workflows.catalog.trace import STAGES, TracedTask
from nwc_workflows.report.time_axis import Tick, TimeAxis, time_axis, time_text
from nwc_workflows.wording import bytes_text, duration_text, name_text

_MOST_TASKS = 2_000  # that are drawn one by one, with their stages; of more only when workers were busy
_LATEST = 1e11  # seconds since 1970: far in the future, and a date all the same
_OPEN = ("running", "stopped")
_KINDS = {
    "t-model": "model",
    "t-failed": "model that failed, or is gone",
    "t-open": "model without an end",
    "t-read": "reading",
    "t-code": "coding",
    "t-write": "writing",
    "t-rest": "the rest of a task",
    "t-busy": "busy",
    "t-gap": "idle time, cut out",
}


@dataclass(frozen=True)
class Piece:
    """Of a bar: from `at` on, so wide, both in percent; `kind` is its class."""

    at: float
    width: float
    kind: str


@dataclass(frozen=True)
class Task:
    """What is said of some pieces together."""

    title: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Row:
    """A label and what is on its line."""

    label: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Timeline:
    """All rows.

    Attributes:
        models: in the order in which they began.
        workers: in the order of their first tasks.
        ticks: of the axis.
        cuts: (at, width) in percent, of idle time that was cut out.
        kinds: of pieces that there are, with what they mean.
        note: what is to be known.
    """

    models: tuple[Row, ...]
    workers: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    cuts: tuple[tuple[float, float], ...]
    kinds: tuple[tuple[str, str], ...]
    note: str


def gather_timeline(models: Sequence[ModelStatus], traces: Mapping[str, Sequence[TracedTask]]) -> Timeline | None:
    """Put it together.

    Args:
        models: of a catalog.
        traces: tasks by the name of the model.

    Returns:
        None if no model has begun.
    """
    begun = [(model, model.record) for model in models if model.record is not None and _sane(model.record)]
    if not begun:
        return None
    tasks = [(name, task) for name, found in traces.items() for task in found if task.started + task.seconds < _LATEST]
    spans = [(record.started, record.updated) for _, record in begun]
    spans += [(task.started, task.started + task.seconds) for _, task in tasks]
    axis = time_axis(spans)
    rows = sorted(begun, key=lambda entry: (entry[1].started, entry[1].name))
    workers: dict[tuple[str, int], list[tuple[str, TracedTask]]] = {}
    for name, task in sorted(tasks, key=lambda entry: entry[1].started):
        workers.setdefault((task.node, task.pid), []).append((name, task))
    detailed = len(tasks) <= _MOST_TASKS
    draw = _detailed if detailed else _busy
    model_rows = tuple(_model_row(model, record, axis) for model, record in rows)
    worker_rows = tuple(Row(f"{name_text(node)}, {pid}", draw(found, axis)) for (node, pid), found in workers.items())
    cuts = tuple((100 * start, 100 * (stop - start)) for start, stop in axis.cuts)
    kinds = {piece.kind for row in (*model_rows, *worker_rows) for task in row.tasks for piece in task.pieces}
    return Timeline(
        *(model_rows, worker_rows, tuple(axis.ticks), cuts),
        kinds=tuple((kind, text) for kind, text in _KINDS.items() if kind in kinds or (kind == "t-gap" and cuts)),
        note=_note(axis, [record for _, record in begun], [task for _, task in tasks]),
    )


def _sane(record: Status) -> bool:
    return math.isfinite(record.started) and 0 <= record.started <= record.updated < _LATEST


def _model_row(model: ModelStatus, record: Status, axis: TimeAxis) -> Row:
    kind = "t-failed" if model.state in ("failed", "gone") else "t-open" if model.state in _OPEN else "t-model"
    took = duration_text(record.updated - record.started)
    title = f"{name_text(model.name)}: {model.state}, {time_text(record.started)}, {took}"
    if record.tasks_resumed:
        title += f", {record.tasks_resumed} of {record.tasks} tasks from an earlier run"
    return Row(name_text(model.name), (Task(title, (_piece(axis, record.started, record.updated, kind),)),))


def _detailed(tasks: Sequence[tuple[str, TracedTask]], axis: TimeAxis) -> tuple[Task, ...]:
    """Each task: all of it, and over it what it spent its time on, one behind the other."""
    out = []
    for model, task in tasks:
        pieces = [_piece(axis, task.started, task.started + task.seconds, "t-rest")]
        at = task.started
        for stage in STAGES:
            seconds = task.stages.get(stage, 0.0)
            if seconds:
                pieces.append(_piece(axis, at, at + seconds, f"t-{stage}"))
            at += seconds
        spent = ", ".join(f"{stage} {duration_text(seconds)}" for stage, seconds in task.stages.items())
        earlier = ", in an earlier run" if task.resumed else ""
        words = f"{duration_text(task.seconds)} ({spent}), {bytes_text(task.nbytes)}{earlier}"
        out.append(Task(f"{name_text(model)}: {name_text(task.name)}: {words}", tuple(pieces)))
    return tuple(out)


def _busy(tasks: Sequence[tuple[str, TracedTask]], axis: TimeAxis) -> tuple[Task, ...]:
    """When a worker was busy; tasks close to each other together."""
    spans: list[tuple[float, float, int]] = []
    for _, task in tasks:
        start, stop = axis.at(task.started), axis.at(task.started + task.seconds)
        if spans and start <= spans[-1][1] + 0.001:
            spans[-1] = spans[-1][0], max(spans[-1][1], stop), spans[-1][2] + 1
        else:
            spans.append((start, stop, 1))
    return tuple(
        Task(f"{count:,} tasks", (Piece(_percent(start), _percent(stop - start), "t-busy"),))
        for start, stop, count in spans
    )


def _piece(axis: TimeAxis, start: float, stop: float, kind: str) -> Piece:
    at = axis.at(start)
    return Piece(_percent(at), _percent(axis.at(stop) - at), kind)


def _percent(share: float) -> float:
    return round(100 * share, 3)


def _note(axis: TimeAxis, records: Sequence[Status], tasks: Sequence[TracedTask]) -> str:
    first, last = axis.parts[0][0], axis.parts[-1][1]
    text = f"From {time_text(first)} to {time_text(last)}"
    if axis.cuts:
        text += f"; idle time is cut out, {len(axis.cuts)} times"
    if any("base" in record.asked for record in records):
        text += "; models that have a base wait for it"
    resumed = sum(task.resumed for task in tasks)
    if tasks:
        text += f". {len(tasks):,} tasks in {duration_text(sum(task.seconds for task in tasks))} of workers’ time"
    if resumed:
        text += f"; {resumed:,} of them were done by an earlier run, which was stopped, and not done again"
    return f"{text}."
