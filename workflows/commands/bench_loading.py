"""`nwc bench loading`: memory and speed of a loaded model."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from nwc_core.errors import UsageError
from nwc_workflows.commands.bench_options import finish, new_folder, out_option
from nwc_workflows.console import Output, with_output


@click.command()
@click.argument("artifact")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="To generate.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of torch and of the decoder.")
@out_option
@with_output
def loading(output: Output, artifact: str, tokens: int, threads: int, out: str | None) -> None:
    """Load the language model of ARTIFACT into transformers, decoded and compressed in memory, and run it.

    Beside the decompressed checkpoint, each in a process of its own. Resident and peak memory are what is added to a process
    that has imported and decoded all it needs once; the fastest of five generations counts. Linux only.
    """
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.loading import WAYS, bench_loading, loading_table
    from nwc_workflows.bench.sheets import Sheet

    if not sys.platform.startswith("linux"):
        raise UsageError(f"nwc bench loading: found {sys.platform}; wanted Linux, whose /proc tells the memory")
    folder = new_folder("--out", out)
    with output.progress(len(WAYS), "measure", "models") as progress:
        found = []
        for way in WAYS:
            found += bench_loading(artifact, tokens, threads, [way])
            progress.advance(1)
    data = {"environment": environment(), "tokens": tokens, "threads": threads, "ways": [asdict(one) for one in found]}
    finish(output, "loading", data, [Sheet(*loading_table(found))], folder)
