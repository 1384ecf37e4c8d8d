"""`nwc bench leave-one-out`: what a codec saves on models of a kind that it never saw."""

from __future__ import annotations

from functools import partial

import click

from nwc_workflows.commands.bench_options import PRESETS, comparing_options, finish, new_folder
from nwc_workflows.console import Output, with_output


@click.command()
@click.argument("families", nargs=-1, required=True, metavar="FAMILY...")
@click.option(
    "--against",
    multiple=True,
    default=["nwc-paper", "ideal-scalar"],
    help="A shipped codec, a codec file, or ideal-scalar; repeatable. [nwc-paper, ideal-scalar]",
)
@click.option("--preset", "presets", multiple=True, type=click.Choice(PRESETS), help="Repeatable. [default, max]")
@comparing_options
@with_output
def leave_one_out(
    output: Output,
    families: tuple[str, ...],
    against: tuple[str, ...],
    presets: tuple[str, ...],
    rates: list[float],
    max_weights: int | None,
    work: str | None,
    out: str | None,
) -> None:
    """What a codec saves at equal error on models of a kind that it never saw.

    A FAMILY is one or several checkpoints, joined by commas. For every family a codec is trained on all others, which
    takes minutes, and measured on each of its tensors beside the references; and on kernels of 3x3, with and without the
    learned transform and the bases.
    """
    from nwc_workflows.bench.contenders import find_contenders
    from nwc_workflows.bench.families import find_families
    from nwc_workflows.bench.leave_one_out import LeaveOneOut
    from nwc_workflows.bench.leave_one_out_report import LeaveOneOutReport
    from nwc_workflows.bench.plot_style import check_matplotlib
    from nwc_workflows.bench.trained import Workshop

    if out:
        check_matplotlib()
    folder = new_folder("--out", out)
    workshop = Workshop(new_folder("--work", work), partial(output.progress, unit="steps"))
    chosen = [preset for preset in PRESETS if preset in (presets or ("default", "max"))]
    plan = LeaveOneOut(find_families(families), chosen, find_contenders(against, chosen), rates, max_weights)
    codecs = [plan.train(family, workshop) for family in plan.families]
    show = partial(output.progress, unit="encodings")
    results = [plan.measure(family, codec, show) for family, codec in zip(plan.families, codecs, strict=True)]
    report = LeaveOneOutReport(plan, results)
    finish(output, "leave-one-out", report.data(), report.parts(), folder, report.write_plots)
