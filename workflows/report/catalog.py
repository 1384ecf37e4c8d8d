"""What a report of a catalog says: its records, their timelines, and what made its artifacts smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nwc_core.errors import FormatError, NwcError
from nwc_core.store import Store
from nwc_workflows.catalog.records import FOLDER, TIMELINE, Records, one_line
from nwc_workflows.catalog.savings import KIND_TEXTS, Part, savings_of
from nwc_workflows.catalog.status import STATES, TROUBLED, ModelStatus, Summary
from nwc_workflows.catalog.trace import TracedTask, read_trace
from nwc_workflows.report.content import Cell, Column, Fact, Figure, Heading, Price, Saved, Table, bars, number
from nwc_workflows.report.time_axis import time_text
from nwc_workflows.report.timeline import Timeline, gather_timeline
from nwc_workflows.wording import bytes_text, duration_text, name_text

_TONES = {"done": "good", "failed": "bad", "gone": "bad", "unreadable": "bad", "stopped": "bad"}
_ASKED = ("bits", "max_bytes", "quality", "gate", "lossless", "max_relative_error", "preset")
_HELPED = ("calibration", "base", "recover")


@dataclass(frozen=True)
class CatalogReport:
    """All that is said of a catalog. Parts that there is nothing to say in are None or empty.

    Attributes:
        heading: summary.
        troubled: models that failed, stopped, or whose artifact or record is gone, and why.
        savings: what copies, differences and coding brought.
        no_savings: why that is not known.
        timeline: of the runs.
        unread: timelines that could not be read, and why.
        models: all.
    """

    heading: Heading
    troubled: Table | None
    savings: Table | None
    no_savings: str
    timeline: Timeline | None
    unread: tuple[str, ...]
    models: Table


def gather_catalog(root: Store, summary: Summary, price: Price) -> CatalogReport:
    """Read what is needed, and put it together.

    Args:
        root: of the catalog.
        summary: from `nwc_workflows.catalog.status.read_status`.
        price: of storage.

    Raises:
        StoreError: a timeline cannot be fetched.
    """
    traces, unread = _traces(root, summary)
    parts, no_savings = _savings(root, summary)
    return CatalogReport(
        heading=_heading(root, summary, price),
        troubled=_troubled(summary),
        savings=_savings_table(parts),
        no_savings=no_savings,
        timeline=gather_timeline(summary.models, traces),
        unread=unread,
        models=_models(summary),
    )


def _traces(root: Store, summary: Summary) -> tuple[dict[str, list[TracedTask]], tuple[str, ...]]:
    """Tasks by model, and what could not be read."""
    names = [model.name for model in summary.models if model.record is not None]
    found: dict[str, list[TracedTask]] = {}
    unread = []
    for name, data in Records(root).read_timelines(names).items():
        if data is None:
            continue
        try:
            found[name] = read_trace(data, f"{FOLDER}/{name}/{TIMELINE}")
        except FormatError as error:
            unread.append(one_line(error))
    return found, tuple(unread)


def _savings(root: Store, summary: Summary) -> tuple[list[Part], str]:
    """One artifact that cannot be opened must not take the whole report with it."""
    try:
        return savings_of(root, summary), ""
    except NwcError as error:
        return [], f"Not known, since an artifact cannot be opened: {one_line(error)}."


def _heading(root: Store, summary: Summary, price: Price) -> Heading:
    saved = Saved(summary.source_nbytes, summary.artifact_nbytes, price)
    done, count = summary.count("done"), len(summary.models)
    states = ", ".join(f"{summary.count(state):,} {state}" for state in STATES if summary.count(state))
    lead = f"{count:,} model{'s' if count != 1 else ''}: {states or 'no records'}."
    if saved.times is not None:
        lead += f" {saved.lead}."
    records = [model.record for model in summary.models if model.state == "done" and model.record is not None]
    weights = sum(record.weights or 0 for record in records)
    held = sum(record.weight_nbytes or 0 for record in records)
    figures = [*saved.figures(), Figure(f"{done:,}", f"of {count:,} models done")]
    if weights:
        figures.insert(2, Figure(f"{8 * held / weights:.3f}", "bits per weight", f"{weights:,} weights"))
    resumed = sum(record.tasks_resumed or 0 for record in records)
    tasks = sum(record.tasks or 0 for record in records)
    facts = []
    if saved.times is not None:
        text = "models that are done, once their sources are deleted: weight files before, all files of the artifacts after"
        facts.append(Fact("What is counted", text))
    if tasks:
        text = f"{tasks:,}, {resumed:,} of them done by an earlier run that did not come to its end"
        facts.append(Fact("Tasks", text if resumed else f"{tasks:,}"))
    versions = sorted({record.nwc for record in records})
    if versions:
        facts.append(Fact("Made by nwc", ", ".join(versions)))
    name = root.uri.rstrip("/").rpartition("/")[2]
    return Heading("catalog", name, root.uri, lead, tuple(figures), tuple(facts))


def _troubled(summary: Summary) -> Table | None:
    found = [model for model in summary.models if model.state in TROUBLED]
    if not found:
        return None
    rows = tuple(
        (Cell(name_text(model.name)), Cell(model.state, tone=_TONES[model.state]), Cell(_reason(model)))
        for model in found
    )
    columns = (Column("Model", code=True), Column("State"), Column("Why", words=True))
    return Table("troubled", "Models that need attention", columns, rows)


def _reason(model: ModelStatus) -> str:
    record = model.record
    if record is None:
        return "Its record cannot be read."
    if model.state == "gone":
        return f"It was done, and its artifact is no longer at {name_text(record.destination)}."
    if model.state == "stopped":
        return f"Last sign of life of {name_text(record.driver)}: {time_text(record.updated)}."
    return name_text(record.reason) if record.reason else ""


def _savings_table(parts: Sequence[Part]) -> Table | None:
    found = [part for part in parts if part.blocks]
    if not found:
        return None
    lengths = bars([part.source_nbytes - part.coded_nbytes for part in found])
    rows = tuple(
        (
            *(Cell(KIND_TEXTS[part.kind]), number(part.blocks, ",d")),
            *(
                Cell(bytes_text(part.source_nbytes), part.source_nbytes),
                Cell(bytes_text(part.coded_nbytes), part.coded_nbytes),
            ),
            number(part.source_nbytes / part.coded_nbytes if part.coded_nbytes else None, ".2f"),
            Cell(bytes_text(part.source_nbytes - part.coded_nbytes), part.source_nbytes - part.coded_nbytes, bar),
        )
        for part, bar in zip(found, lengths, strict=True)
    )
    columns = (
        Column("Weights"),
        *(Column(label, number=True) for label in ("Blocks", "Before", "After", "Times smaller", "Saved")),
    )
    return Table("savings", "What made the artifacts smaller", columns, rows, sortable=False)


def _models(summary: Summary) -> Table:
    columns = (
        *(Column("Model", code=True), Column("State")),
        *(Column(label, number=True) for label in ("Before", "After", "Times smaller", "Bits", "Weights", "Time")),
        *(Column("Asked for", words=True), Column("Source", code=True, words=True)),
    )
    lengths = bars([(model.record.artifact_nbytes or 0) if model.record else 0 for model in summary.models])
    rows = tuple(_row(model, bar) for model, bar in zip(summary.models, lengths, strict=True))
    return Table("models", "All models", columns, rows, search="Find models")


def _row(model: ModelStatus, bar: int) -> tuple[Cell, ...]:
    record = model.record
    before, after = model.nbytes, record.artifact_nbytes if record else None
    seconds = record.seconds if record else None
    return (
        *(Cell(name_text(model.name)), Cell(model.state, tone=_TONES.get(model.state, ""))),
        Cell("") if before is None else Cell(bytes_text(before), before),
        Cell("") if after is None else Cell(bytes_text(after), after, bar),
        number(before / after if before and after else None, ".2f"),
        number(record.bits_per_weight if record else None, ".3f"),
        number(record.weights if record else None, ",d"),
        Cell("") if seconds is None else Cell(duration_text(seconds), seconds),
        Cell(_asked(record.asked) if record else ""),
        Cell(name_text(record.source) if record else ""),
    )


def _asked(asked: Mapping[str, str]) -> str:
    """A model's options, as far as they say something to people."""
    found = [f"{key.replace('_', ' ')} {name_text(asked[key])}" for key in _ASKED if key in asked]
    return ", ".join([*found, *(f"with {key}" for key in _HELPED if key in asked)])
