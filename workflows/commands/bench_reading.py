"""`nwc bench reading`: a model from its store into memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from nwc_workflows.commands.bench_options import finish, new_folder, out_option
from nwc_workflows.console import Output, with_output


@click.command()
@click.argument("original")
@click.argument("artifact")
@click.option(
    "--megabits",
    type=click.FloatRange(min=0, min_open=True),
    help="A second, of a line to the store, such as 1000. [what there is]",
)
@click.option("--threads", type=click.IntRange(1), help="To decode on. [all cores]")
@out_option
@with_output
def reading(
    output: Output, original: str, artifact: str, megabits: float | None, threads: int | None, out: str | None
) -> None:
    """How long loading takes: the checkpoint ORIGINAL beside the ARTIFACT that was made from it, all tensors, into memory.

    In turns, medians of five rounds; both may be URIs. With --megabits what comes by HTTP (s3://, hf://) passes a proxy that
    lets no more through.
    """
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.reading import ROUNDS, bench_reading, reading_table
    from nwc_workflows.bench.sheets import Sheet

    folder = new_folder("--out", out)
    bandwidth = None if megabits is None else megabits * 1e6 / 8
    with output.progress(2 * ROUNDS, "measure", "loads") as progress:
        found = bench_reading(original, artifact, bandwidth, threads, progress.advance)
    data: dict[str, Any] = {"environment": environment(), "megabits": megabits, "threads": threads}
    data |= {"ways": [asdict(one) for one in found]}
    finish(output, "reading", data, [Sheet(*reading_table(found))], folder)
