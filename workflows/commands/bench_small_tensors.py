"""`nwc bench small-tensors`: what each tensor costs when a model is loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from nwc_workflows.commands.bench_options import finish, new_folder, out_option
from nwc_workflows.console import Output, with_output


@click.command("small-tensors")
@click.option("--tensors", type=click.IntRange(2), default=5000, show_default=True, help="How many.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="To decode on.")
@out_option
@with_output
def small_tensors(output: Output, tensors: int, threads: int, out: str | None) -> None:
    """How long loading takes where tensors are many and small: norms of 32, matrices of 16 x 16.

    They are compressed on Ray into a temporary folder; original and artifact are then loaded in turns, medians of five rounds.
    """
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.reading import ROUNDS, reading_table
    from nwc_workflows.bench.sheets import Sheet
    from nwc_workflows.bench.small_tensors import bench_small_tensors

    folder = new_folder("--out", out)

    with output.progress(2 * ROUNDS, "measure", "loads") as progress:
        found = bench_small_tensors(tensors, threads, progress.advance)
    data: dict[str, Any] = {"environment": environment(), "tensors": tensors, "threads": threads}
    data |= {"ways": [asdict(one) for one in found]}
    finish(output, "small-tensors", data, [Sheet(*reading_table(found))], folder)
