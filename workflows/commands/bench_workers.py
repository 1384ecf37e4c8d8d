"""`nwc bench workers`: what distribution costs."""

from __future__ import annotations

from dataclasses import asdict

import click

from nwc_workflows.commands.bench_options import PRESETS, finish, new_folder, out_option
from nwc_workflows.console import Output, with_output


@click.command()
@click.option("--weights", type=click.IntRange(4), default=64, show_default=True, help="Millions, of what is coded.")
@click.option(
    "--tensors", type=click.IntRange(1), help="Tensors of equal size that they are in; of two million each if not said."
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes at once.")
@click.option("--bits", type=click.FloatRange(0.25, 16), default=4.0, show_default=True, help="Bits per weight.")
@click.option("--preset", type=click.Choice(PRESETS), default="default", show_default=True)
@out_option
@with_output
def workers(
    output: Output, weights: int, tensors: int | None, workers: int, bits: float, preset: str, out: str | None
) -> None:
    """What distribution costs: Ray's workers beside plain processes that run the same tasks.

    On a synthetic checkpoint in a temporary folder, in turns, medians of three rounds; the machine should have nothing else
    to do. The driver's CPU time counts planning, scheduling and committing.
    """
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.sheets import Sheet
    from nwc_workflows.bench.workers import bench_workers, runs, workers_table
    from nwc_workflows.plan import CompressOptions

    folder = new_folder("--out", out)
    options = CompressOptions(bits=bits, preset=preset)
    with output.progress(runs(workers), "measure", "runs") as progress:
        found = bench_workers(weights * 1_000_000, tensors, workers, options, progress.advance)
    data = {"environment": environment(), "bits": bits, "preset": preset, "ways": [asdict(way) for way in found]}
    finish(output, "workers", data, [Sheet(*workers_table(found))], folder)
