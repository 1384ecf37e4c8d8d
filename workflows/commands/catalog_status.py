"""`nwc catalog status`: how far a catalog is."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.catalog_options import open_catalog, record_data
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, duration_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.catalog.savings import Part
    from nwc_workflows.catalog.status import ModelStatus, Summary


@click.command()
@click.argument("catalog", metavar="CATALOG.yaml|URI")
@click.option("--price", type=click.FloatRange(0), default=None, help="Of a GB stored for a month. [the file's]")
@click.option("--failed", is_flag=True, help="List only models that failed, stopped or are gone.")
@click.option("--savings", is_flag=True, help="What each step saved: reads the indexes of all artifacts that are done.")
@with_output
def status(output: Output, catalog: str, price: float | None, failed: bool, savings: bool) -> None:
    """Say how far the catalog is, from the store alone: of a file, or of the place where its results are.

    Only the file knows of models that have not begun. Money is what the bytes that are saved would cost, of models that are
    done, once their sources are deleted.
    """
    from nwc_workflows.catalog.savings import savings_of
    from nwc_workflows.catalog.status import TROUBLED, read_status

    root, members, of_file = open_catalog(catalog, with_members=True)
    summary = read_status(root, members)
    price = of_file if price is None else price
    parts = savings_of(root, summary) if savings else []
    listed = [model for model in summary.models if not failed or model.state in TROUBLED]
    output.result(
        {
            "root": root.uri,
            **_summary_data(summary, price),
            **({"savings": [asdict(part) for part in parts]} if savings else {}),
            "models": [
                {"name": model.name, "state": model.state, **(record_data(model.record) if model.record else {})}
                for model in listed
            ],
        },
        lambda: _summary_text(summary, price),
    )
    if savings:
        output.table(["weights", "blocks", "before", "after", "ratio"], [_part_row(part) for part in parts])
    if listed:
        if not output.json:
            print()
        output.table(
            ["model", "state", "before", "after", "ratio", "bits", "reason"], [_row(model) for model in listed]
        )


def _part_row(part: Part) -> list[object]:
    from nwc_workflows.catalog.savings import KIND_TEXTS

    ratio = f"{part.source_nbytes / part.coded_nbytes:.2f}" if part.coded_nbytes else ""
    return [KIND_TEXTS[part.kind], part.blocks, bytes_text(part.source_nbytes), bytes_text(part.coded_nbytes), ratio]


def _summary_data(summary: Summary, price: float | None) -> dict[str, Any]:
    from nwc_workflows.catalog.status import STATES

    return {
        "counts": {state.replace(" ", "_"): summary.count(state) for state in STATES},
        "source_bytes": summary.source_nbytes,
        "artifact_bytes": summary.artifact_nbytes,
        "price": price,
        "saved_per_month": None if price is None else summary.saved_per_month(price),
    }


def _summary_text(summary: Summary, price: float | None) -> str:
    from nwc_workflows.catalog.status import STATES

    counts = ", ".join(f"{summary.count(state)} {state}" for state in STATES if summary.count(state))
    text = f"{count_text(len(summary.models), 'model')}: {counts or 'no records'}"
    if summary.artifact_nbytes:
        times = summary.source_nbytes / summary.artifact_nbytes
        text += (
            f"\ndone: {bytes_text(summary.source_nbytes)} -> {bytes_text(summary.artifact_nbytes)}, "
            f"{times:.2f} times smaller"
        )
        if price is not None:
            text += f"; saves {summary.saved_per_month(price):,.2f} per month at {price:g} per GB"
    return text


def _row(model: ModelStatus) -> list[object]:
    record = model.record
    before, after = model.nbytes, record.artifact_nbytes if record else None
    bits = record.bits_per_weight if record else None
    return [
        name_text(model.name),
        model.state,
        "" if before is None else bytes_text(before),
        "" if after is None else bytes_text(after),
        f"{before / after:.2f}" if before and after else "",
        "" if bits is None else f"{bits:.3f}",
        _reason(model),
    ]


def _reason(model: ModelStatus) -> str:
    record = model.record
    if record is None:
        return "its record cannot be read" if model.state == "unreadable" else ""
    if model.state == "stopped":
        return f"last sign of life {duration_text(time.time() - record.updated)} ago, of {record.driver}"
    return name_text(record.reason) if record.reason else ""
