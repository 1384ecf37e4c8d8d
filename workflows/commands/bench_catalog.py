"""`nwc bench catalog`: what planning and committing a catalog costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.bench_options import finish, new_folder, out_option
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text

if TYPE_CHECKING:
    from nwc_workflows.bench.catalog import Phase


@click.command()
@click.option("--models", type=click.IntRange(1), default=10_000, show_default=True, help="So many.")
@click.option("--tensors", type=click.IntRange(3), default=300, show_default=True, help="Of each.")
@click.option(
    "--hidden",
    type=click.IntRange(64),
    default=1024,
    show_default=True,
    help="Columns; blocks are cut of 2**23 weights.",
)
@click.option(
    "--commit", type=click.IntRange(0), default=100, show_default=True, help="Models that are committed, too."
)
@out_option
@with_output
def catalog(output: Output, models: int, tensors: int, hidden: int, commit: int, out: str | None) -> None:
    """Time, memory and requests of finding, planning and committing models, without weights.

    Models are simulated: headers of safetensors files in a store in memory that answers at once. Committing is what the
    driver does once all tasks are done: it reads what each left, writes index and manifest, and clears up.
    """
    from nwc_core.codec import Codec
    from nwc_workflows.bench.catalog import run, simulate
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.sheets import Sheet

    folder = new_folder("--out", out)
    commit = min(commit, models)
    store = simulate(models, tensors, hidden)
    codec = Codec.load("default")
    counts = {"find": models, "plan": models, "commit": commit}
    with output.progress(models + commit, "plan and commit", "models") as progress:
        phases = list(run(store, codec, commit, progress.advance))
    data: dict[str, Any] = {
        "environment": environment(),
        "models": models,
        "tensors": tensors,
        "hidden": hidden,
        "phases": [
            {
                "name": phase.name,
                "models": counts[phase.name],
                "seconds": phase.seconds,
                "peak_bytes": phase.peak_nbytes,
                "requests": phase.requests,
            }
            for phase in phases
        ],
    }
    rows = [
        [
            phase.name,
            counts[phase.name],
            f"{phase.seconds:.2f}",
            f"{1000 * phase.seconds / counts[phase.name]:.3f}",
            bytes_text(phase.peak_nbytes),
            ", ".join(f"{count} {kind}" for kind, count in sorted(phase.requests.items())),
        ]
        for phase in phases
    ]
    sheet = Sheet(["phase", "models", "seconds", "ms per model", "peak memory", "requests"], rows)
    found = f"{models:,} models of {tensors} tensors, found and planned in {_planned(phases):.1f} s"
    finish(output, "catalog", data, [sheet, found], folder)


def _planned(phases: list[Phase]) -> float:
    return sum(phase.seconds for phase in phases if phase.name != "commit")
