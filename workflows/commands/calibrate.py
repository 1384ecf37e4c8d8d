"""`nwc calibrate`: what an error in each weight does to a model's output, measured on data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nwc_workflows.commands.options import data_option, model_options, ray_options
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, duration_text, name_text


@click.command()
@click.argument("model")
@click.argument("destination")
@data_option
@model_options("seq2seq", subset="evenly")
@click.option("--input-only", is_flag=True, help="No gradients: cheaper, but says nothing about which weights matter.")
@click.option(
    "--max-memory",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="GIB",
    help="Memory for the sums of one task, besides the model; the less, the more often the model runs.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every random draw.")
@ray_options
@with_output
def calibrate(
    output: Output,
    model: str,
    destination: str,
    data: str,
    max_memory: float,
    address: str | None,
    workers: int | None,
    **options: Any,
) -> None:
    """Run MODEL on data and store at DESTINATION what an error in each of its weights does to its output.

    MODEL is the folder of a checkpoint, a .safetensors file or an artifact. The calibration makes the compressor spend its
    bits where they matter. Use data like that which the model will see, and other data than it will be evaluated on. A
    run that was stopped goes on where it was when the same command is given again.
    """
    from nwc_core.store import open_store
    from nwc_workflows.calibrate import calibrate as run
    from nwc_workflows.calibration.preparation import CalibrateOptions, prepare
    from nwc_workflows.calibration.report import describe, hardly_reached, table

    prepared = prepare(model, CalibrateOptions(data=Path(data), **options))
    store = open_store(destination, "destination")
    items = prepared.items
    output.note(f"{prepared.source.kind}: {items.count} {items.unit} of {data}")
    with output.progress(items.count, "calibrate", items.unit) as progress:
        done = run(
            prepared,
            store,
            max_memory=int(max_memory * (1 << 30)),
            address=address,
            workers=workers,
            on_progress=progress.advance,
        )
    found = done.calibration
    if not done.created:
        output.result(describe(found), f"{store.uri} holds this very calibration already; nothing to do")
        return
    output.table(*table(found))
    for weight in found.record.unreached:
        output.note(f"no statistics: {name_text(weight.name)}: {weight.reason}")
    for name in hardly_reached(found):
        output.note(f"hardly reached: {name_text(name)}: most of what is stored about it is the mean of its kind")
    size = sum(found.record.objects.values())
    output.result(
        {**describe(found), "created": done.created, "resumed_tasks": done.resumed, "seconds": done.seconds},
        f"{store.uri}: {len(found.names)} weights, {bytes_text(size)}, {duration_text(done.seconds)}",
    )
