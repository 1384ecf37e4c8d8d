"""`nwc bench models`: other ways to compress beside ours, by what models put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nwc_core.errors import UsageError
from nwc_workflows.commands.bench_options import finish, new_folder
from nwc_workflows.commands.options import batch_option, data_option, model_options
from nwc_workflows.console import Output, with_output

_RATES = (3.0, 4.0, 5.0, 6.0)


@click.command()
@click.argument("model")
@data_option
@click.option(
    "--calibration-data", default=None, metavar="PATH", help="Other data of the same kind, for methods that calibrate."
)
@click.option(
    "--calibration",
    default=None,
    metavar="URI",
    help="What nwc calibrate made of this model, for the methods that use that; made of --calibration-data if left out.",
)
@click.option(
    "--bits",
    "rates",
    multiple=True,
    type=click.FloatRange(0.25, 16),
    help="Of the whole file, or with --scope linears or --ablation of the coded weights. Repeatable. [3, 4, 5, 6]",
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Repeatable. [all]")
@click.option(
    "--ablation", is_flag=True, help="Instead of other methods, this one with a calibration and one of its parts off."
)
@click.option(
    "--scope",
    type=click.Choice(["whole", "linears"]),
    default="whole",
    show_default=True,
    help="linears: all methods code the same linear layers, the output head is none of them, and only these count.",
)
@model_options(subset="first")
@batch_option
@click.option("--out", default=None, metavar="DIR", help="Write a plot (PNG) and all figures (JSON) here.")
@with_output
def models(
    output: Output,
    model: str,
    data: str,
    calibration_data: str | None,
    calibration: str | None,
    rates: tuple[float, ...],
    methods: tuple[str, ...],
    ablation: bool,
    scope: Any,
    out: str | None,
    **options: Any,
) -> None:
    """Compress MODEL with every method that is installed, and compare what comes out with the original.

    The bytes of every method are those that it stores, tensors that it leaves alone included. Each codes what its users
    would let it code: some leave embeddings and the output head alone, which weighs on small models; --scope linears
    compares all on the same layers. A method takes part with those of its settings that come close to --bits, and is
    left out with the reason where it cannot run.
    """
    from nwc_workflows.bench.models_plot import write_plot
    from nwc_workflows.bench.models_preparation import prepare_bench
    from nwc_workflows.bench.models_report import as_data, report_parts
    from nwc_workflows.bench.plot_style import check_matplotlib
    from nwc_workflows.bench.rivals.parts import parts_off
    from nwc_workflows.bench.rivals.registry import find_rivals
    from nwc_workflows.evaluate import EvaluateOptions

    if out:
        check_matplotlib()
    folder = new_folder("--out", out)
    if ablation and methods:
        raise UsageError("--ablation: found --method besides; wanted one of the two")
    chosen_rates = sorted(set(rates or _RATES))
    rivals = parts_off(chosen_rates) if ablation else find_rivals(chosen_rates, methods)
    chosen = EvaluateOptions(data=Path(data), **options)
    other = Path(calibration_data) if calibration_data else None
    bench = prepare_bench(model, chosen, other, scope, rivals, calibration)
    with output.progress(len(rivals), "measure", "settings") as progress:
        results = bench.run(progress.advance)

    def plots(folder: Path) -> list[Path]:
        write_plot(results, folder / "models.png")
        return [folder / "models.png"]

    finish(output, "models", as_data(results), report_parts(results), folder, plots)
