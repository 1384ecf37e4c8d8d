"""The report on a catalog: what became of each model, what it saved, and what the run spent its time on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from nwc_core.store import Store, open_store
from nwc_workflows.catalog.members import Member
from nwc_workflows.catalog.records import Status
from nwc_workflows.catalog.savings import savings
from nwc_workflows.catalog.status import STATES, TROUBLED, ModelStatus, Summary, read_status
from nwc_workflows.report.page import Card, Cell, Page, Section, Table
from nwc_workflows.report.times import times
from nwc_workflows.wording import bytes_text, count_text, name_text

_KINDS = {
    "copies": "as in a base, or in another tensor before",
    "differences": "differences to a base",
    "alone": "coded alone",
}


def catalog_page(root: Store, members: Sequence[Member] | None, price: float) -> Page:
    """Gather it.

    Args:
        root: of the catalog's results.
        members: of its file, if that is known.
        price: of a GB and month.

    Raises:
        StoreError: the store cannot be read.
        NwcError: an artifact that is done cannot be opened.
        UsageError: matplotlib is not installed.
    """
    summary = read_status(root, members)
    done = [model.record for model in summary.models if model.state == "done" and model.record is not None]
    troubled = [model for model in summary.models if model.state in TROUBLED]
    sections: list[Section] = []
    if troubled:
        rows = [
            (Cell(name_text(m.name)), Cell(m.state, tone="bad"), Cell((m.record.reason or "") if m.record else ""))
            for m in troubled
        ]
        sections.append(Table("What is not done, and why", ("model", "state", "reason"), rows))
    sections.append(_models(summary))
    if done:
        sections.append(_savings(root, done))
        sections += times(root, [record.name for record in done])
    counts = ", ".join(f"{summary.count(state):,} {state}" for state in STATES if summary.count(state))
    return Page(
        root.uri.rstrip("/").rpartition("/")[2] or root.uri,
        f"{root.uri}: {count_text(len(summary.models), 'model')}; {counts or 'no records'}",
        _cards(summary, done, len(troubled), price),
        sections,
        f"Made by nwc {version('nwc')} from the records of the catalog's runs, and from the artifacts' indexes.",
    )


def _cards(summary: Summary, done: Sequence[Status], troubled: int, price: float) -> list[Card]:
    before, after = summary.source_nbytes, summary.artifact_nbytes
    month = summary.saved_per_month(price)
    return [
        Card("models done", f"{len(done):,}", f"of {len(summary.models):,}"),
        Card("before", bytes_text(before)),
        Card("now", bytes_text(after), f"{before / max(1, after):.2f} times smaller" if done else ""),
        Card("saved", bytes_text(before - after), f"{month:,.2f} a month at {price:g} a GB" if month >= 0.01 else ""),
        Card("failed or stopped", f"{troubled:,}"),
    ]


def _models(summary: Summary) -> Table:
    most = max((model.nbytes or 0 for model in summary.models), default=0)
    rows = [_row(model, most) for model in summary.models]
    headers = ("model", "state", "before", "now", "times", "bits per weight", "tasks", "of earlier runs", "seconds")
    return Table("Models", headers, rows, frozenset(range(2, 9)))


def _row(model: ModelStatus, most: int) -> list[Cell]:
    record, before = model.record, model.nbytes
    after = record.artifact_nbytes if record else None
    bits = record.bits_per_weight if record else None
    tone = "good" if model.state == "done" else "bad" if model.state in TROUBLED else ""
    return [
        *(Cell(name_text(model.name)), Cell(model.state, tone=tone)),
        _bytes(before, before / most if before and most else None),
        _bytes(after, after / most if after and most else None),
        Cell(f"{before / after:.2f}", before / after) if before and after else Cell(""),
        Cell("") if bits is None else Cell(f"{bits:.3f}", bits),
        *(_number(record.tasks if record else None), _number(record.tasks_resumed if record else None)),
        Cell("") if record is None or record.seconds is None else Cell(f"{record.seconds:,.1f}", record.seconds),
    ]


def _bytes(nbytes: int | None, bar: float | None) -> Cell:
    return Cell("") if nbytes is None else Cell(bytes_text(nbytes), nbytes, bar)


def _number(found: int | None) -> Cell:
    return Cell("") if found is None else Cell(f"{found:,}", found)


def _savings(root: Store, done: Sequence[Status]) -> Table:
    base = root.uri.rstrip("/")
    parts = savings([open_store(f"{base}/{record.destination}", "destination") for record in done])
    rows = [
        [
            *(Cell(_KINDS[part.kind]), Cell(f"{part.blocks:,}", part.blocks)),
            *(
                Cell(bytes_text(part.source_nbytes), part.source_nbytes),
                Cell(bytes_text(part.coded_nbytes), part.coded_nbytes),
            ),
            Cell(f"{part.source_nbytes / part.coded_nbytes:.2f}", part.source_nbytes / part.coded_nbytes)
            if part.coded_nbytes
            else Cell(""),
        ]
        for part in parts
    ]
    headers = ("weights", "blocks", "before", "now", "times")
    return Table("What made it smaller", headers, rows, frozenset({1, 2, 3, 4}))
