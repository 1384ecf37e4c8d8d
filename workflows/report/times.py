"""When the models of a catalog ran and what the workers did, from the time lines that its runs kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nwc_core.errors import FormatError, NotFoundError
from nwc_core.store import Store
from nwc_core.strict_json import parse_json
from nwc_workflows.catalog.records import FOLDER, TIMELINE
from nwc_workflows.report.page import Plot
from nwc_workflows.report.plots import Span, timeline
from nwc_workflows.wording import count_text, duration_text, name_text

_READERS = 16
_MOST_BARS = 60  # rows of a drawing that can still be read
_LEAST_PAUSE, _LEFT_OF_PAUSE = 30.0, 3.0  # seconds; in longer ones nothing ran: between two runs, say


@dataclass(frozen=True)
class _Task:
    """A task of a model: where it ran, from when on (seconds since 1970), for how long, and whether an earlier run did it."""

    model: str
    node: str
    process: int
    start: float
    seconds: float
    resumed: bool


def times(root: Store, models: Sequence[str]) -> list[Plot]:
    """Drawings of the models whose time lines are there; none if there are no such.

    Args:
        root: of the catalog.
        models: names.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        found = [task for tasks in pool.map(lambda name: _tasks(root, name), models) for task in tasks]
    if not found:
        return []
    tasks, paused = _without_pauses(found)
    names = list(dict.fromkeys(task.model for task in tasks))
    took = max(task.start + task.seconds for task in tasks)
    said = [
        f"{count_text(len(tasks), 'task')} in {duration_text(took)}",
        f"{sum(task.seconds for task in tasks) / max(took, 1e-9):.2f} at once",
    ]
    note = f"{', '.join(said)} on average."
    if paused:
        note += f" Pauses of {duration_text(paused)} in all are left out."
    if len(names) > _MOST_BARS:
        names = names[:_MOST_BARS]
        note += f" The first {_MOST_BARS} models are shown."
    labels = [name_text(name) for name in names]
    drawn = [Plot("When models ran", _draw(labels, names, [task.model for task in tasks], tasks), note)]
    places = sorted({(task.node, task.process) for task in tasks})
    if len(places) <= _MOST_BARS:
        labels = [f"{node}, {process}" for node, process in places]
        of_task = [(task.node, task.process) for task in tasks]
        note = "A row for each worker process, by machine and number; a bar for each task."
        drawn.append(Plot("What workers did", _draw(labels, places, of_task, tasks), note))
    return drawn


def _draw(labels: Sequence[str], rows: Sequence[object], of_task: Sequence[object], tasks: Sequence[_Task]) -> str:
    place = {row: number for number, row in enumerate(rows)}
    spans = [
        Span(place[row], task.start, task.start + task.seconds, int(task.resumed))
        for row, task in zip(of_task, tasks, strict=True)
        if row in place
    ]
    legend = ["tasks", "of earlier runs"] if any(task.resumed for task in tasks) else ["tasks"]
    return timeline(labels, spans, f"When {count_text(len(spans), 'task')} ran, in {len(labels)} rows", legend)


def _tasks(root: Store, model: str) -> list[_Task]:
    """Of a time line as it was kept; none if there is no such, or it is damaged."""
    key = f"{FOLDER}/{model}/{TIMELINE}"
    try:
        return list(_of_trace(parse_json(root.get(key), key), model))
    except (NotFoundError, FormatError, KeyError, TypeError, ValueError, AttributeError):
        return []


def _of_trace(trace: dict[str, object], model: str) -> Iterator[_Task]:
    events: list[dict[str, object]] = trace["traceEvents"]  # type: ignore[assignment]  # what is not fails in what follows
    started = float(trace["otherData"]["started"])  # type: ignore[index]
    nodes = {event["pid"]: str(event["args"]["name"]) for event in events if event["ph"] == "M"}  # type: ignore[index]
    for event in events:
        if event["ph"] == "X" and event["cat"] == "task":
            start, seconds = (float(event[field]) / 1e6 for field in ("ts", "dur"))  # type: ignore[arg-type]
            resumed = bool(event["args"]["resumed"])  # type: ignore[index]
            yield _Task(model, nodes[event["pid"]], int(event["tid"]), started + start, seconds, resumed)  # type: ignore[call-overload]


def _without_pauses(tasks: Sequence[_Task]) -> tuple[list[_Task], float]:
    """The tasks in order, the first at 0 and long pauses cut short; and the seconds that were cut."""
    moved: list[_Task] = []
    cut, busy_until = 0.0, 0.0
    for task in sorted(tasks, key=lambda task: (task.start, task.model)):
        if not moved:
            cut = task.start
        elif task.start - cut - busy_until > _LEAST_PAUSE:
            cut = task.start - busy_until - _LEFT_OF_PAUSE
        moved.append(replace(task, start=task.start - cut))
        busy_until = max(busy_until, moved[-1].start + task.seconds)
    return moved, cut - min(task.start for task in tasks)
