"""`nwc evaluate`: compressed models beside the original, on data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nwc_workflows.commands.options import batch_option, data_option, model_options
from nwc_workflows.console import Output, json_text, with_output


@click.command()
@click.argument("original")
@click.argument("compressed", nargs=-1, required=True)
@data_option
@model_options(subset="first")
@batch_option
@click.option("--out", default=None, metavar="FILE", help="Write the figures (JSON) here, too.")
@with_output
def evaluate(output: Output, original: str, compressed: tuple[str, ...], out: str | None, **options: Any) -> None:
    """Compare every COMPRESSED model with the ORIGINAL by what they put out on the same data.

    Models are artifacts, checkpoint folders or .safetensors files, local or s3://. Language models: perplexity, KL
    divergence and top-1 agreement per token. Text encoders: error and cosine of sentence embeddings, nearest neighbours.
    Image classifiers: accuracy, agreement. All with 95 % bootstrap intervals; everything is computed in float32.
    """
    from nwc_core.errors import UsageError
    from nwc_workflows.evaluate import EvaluateOptions, prepare
    from nwc_workflows.evaluation.report import describe, table

    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UsageError(f"--out: {out}: no such folder; wanted a file in a folder that exists")
    chosen = EvaluateOptions(data=Path(options.pop("data")), **options)
    prepared = prepare(original, compressed, chosen)
    output.note(f"{prepared.kind}: {prepared.task.count} {prepared.task.unit} of {chosen.data}")
    with output.progress(prepared.work, "evaluate", prepared.task.unit) as progress:
        found = prepared.run(progress.advance)
    data = describe(found)
    if out is not None:
        Path(out).write_text(json_text(data) + "\n")
    output.table(*table(found))
    output.result(data, f"on {prepared.task.count} {prepared.task.unit}, SHA-256 of the data {found.data['sha256']}")
