"""`nwc bench small-tensors`: what each tensor costs when a model is loaded."""

from __future__ import annotations

from dataclasses import asdict

import click

from nwc_workflows.console import Output, with_output


@click.command("small-tensors")
@click.option("--tensors", type=click.IntRange(2), default=5000, show_default=True, help="How many.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="To decode on.")
@with_output
def small_tensors(output: Output, tensors: int, threads: int) -> None:
    """How long loading takes where tensors are many and small: norms of 32, matrices of 16 x 16.

    They are compressed on Ray into a temporary folder; original and artifact are then loaded in turns, medians of five rounds.
    """
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.reading import ROUNDS, reading_table
    from nwc_workflows.bench.small_tensors import bench_small_tensors
    from nwc_workflows.wording import table_text

    with output.progress(2 * ROUNDS, "measure", "loads") as progress:
        found = bench_small_tensors(tensors, threads, progress.advance)
    data = {"environment": environment(), "tensors": tensors, "threads": threads}
    output.result({**data, "ways": [asdict(one) for one in found]}, lambda: table_text(*reading_table(found)))
