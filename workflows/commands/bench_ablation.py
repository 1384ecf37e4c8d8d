"""`nwc bench ablation`: what each part of a codec is worth."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import click

from nwc_workflows.commands.bench_options import PRESETS, comparing_options, finish, new_folder
from nwc_workflows.console import Output, with_output


@click.command()
@click.argument("checkpoints", nargs=-1, required=True)
@click.option("--codec", "name", default="default", show_default=True, help="A shipped codec, or a codec file.")
@click.option(
    "--train", "sources", multiple=True, metavar="SOURCE", help="Train variants on this checkpoint; repeatable."
)
@click.option("--per-rate", is_flag=True, help="Train a codec for each rate alone, too.")
@click.option("--preset", type=click.Choice(PRESETS), default="default", show_default=True, help="Of the whole codec.")
@comparing_options
@with_output
def ablation(
    output: Output,
    checkpoints: tuple[str, ...],
    name: str,
    sources: tuple[str, ...],
    per_rate: bool,
    preset: str,
    rates: list[float],
    max_weights: int | None,
    work: str | None,
    out: str | None,
) -> None:
    """What each part of a codec is worth: bits per weight lost without it at equal error.

    Every tensor of CHECKPOINTS that the lossy coder takes is coded with the whole codec, and with one part removed or
    replaced at a time. With --train, codecs are trained in other ways as well, and compared with one that was trained
    on the same sources as `nwc train` does; each takes minutes.
    """
    from nwc_core.codec import Codec
    from nwc_core.errors import UsageError
    from nwc_workflows.bench.ablation import Losses, Measuring
    from nwc_workflows.bench.ablation_report import AblationReport
    from nwc_workflows.bench.plot_style import check_matplotlib
    from nwc_workflows.bench.trained import Workshop
    from nwc_workflows.bench.training_variants import Training
    from nwc_workflows.bench.variants import Ablation, part_ablation
    from nwc_workflows.train import find_sources

    if per_rate and not sources:
        raise UsageError("--per-rate: found no --train; wanted the checkpoints to train on")
    if out:
        check_matplotlib()
    folder = new_folder("--out", out)
    workshop = Workshop(new_folder("--work", work), partial(output.progress, unit="steps"))
    parts = part_ablation(Codec.load(name), preset)
    measuring = Measuring(rates, find_sources(list(checkpoints)), max_weights)

    def measure(ablation: Ablation, at: Measuring = measuring) -> Losses:
        with output.progress(at.encodings(ablation), "measure", "encodings") as progress:
            return at.measure(ablation, progress.advance)

    ablations, alone = [parts], []
    if sources:
        training = Training.start(workshop, find_sources(list(sources)), preset)
        ablations.append(training.ablation(rates[len(rates) // 2]))
        alone = [(rate, training.per_rate(rate)) for rate in rates if per_rate]
    report = AblationReport(
        preset,
        [measure(ablation) for ablation in ablations],
        [measure(ablation, replace(measuring, rates=[rate])) for rate, ablation in alone],
    )
    finish(output, "ablation", report.data(), report.parts(), folder, report.write_plots)
