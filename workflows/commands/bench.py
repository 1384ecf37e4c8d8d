"""`nwc bench`: measure on this machine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.bench_ablation import ablation
from nwc_workflows.commands.bench_catalog import catalog
from nwc_workflows.commands.bench_leave_one_out import leave_one_out
from nwc_workflows.commands.bench_loading import loading
from nwc_workflows.commands.bench_lossless import lossless
from nwc_workflows.commands.bench_models import models
from nwc_workflows.commands.bench_options import PRESETS, finish, new_folder, out_option
from nwc_workflows.commands.bench_reading import reading
from nwc_workflows.commands.bench_report import report
from nwc_workflows.commands.bench_small_tensors import small_tensors
from nwc_workflows.commands.bench_workers import workers
from nwc_workflows.console import Output, with_output

if TYPE_CHECKING:
    from nwc_workflows.bench.sheets import Part

_SOURCES = ("gaussian", "laplace", "student-t")
_RATES = (2.0, 3.0, 4.0, 5.0, 6.0)


def _size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    rows, _, columns = value.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and min(int(rows), int(columns)) >= 32):
        raise click.BadParameter(f"found {value!r}; wanted ROWSxCOLUMNS, both at least 32, such as 4096x4096")
    return int(rows), int(columns)


@click.group()
def bench() -> None:
    """Measure rate, distortion and speed on this machine, in one run."""


bench.add_command(ablation)
bench.add_command(catalog)
bench.add_command(leave_one_out)
bench.add_command(loading)
bench.add_command(lossless)
bench.add_command(models)
bench.add_command(reading)
bench.add_command(report)
bench.add_command(small_tensors)
bench.add_command(workers)


@bench.command()
@click.argument("checkpoints", nargs=-1)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    default=["default"],
    help="A shipped codec, a codec file, or ideal-scalar; repeatable: the first is compared with the others. [default]",
)
@click.option("--preset", "presets", multiple=True, type=click.Choice(PRESETS), help="Repeatable. [all]")
@click.option("--bits", "rates", multiple=True, type=click.FloatRange(0.25, 16), help="Repeatable. [2, 3, 4, 5, 6]")
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice(_SOURCES),
    help="Independent samples; repeatable. [all, or none with CHECKPOINTS]",
)
@click.option(
    "--size",
    callback=_size,
    metavar="ROWSxCOLUMNS",
    default="1024x4096",
    show_default=True,
    help="Samples of a source.",
)
@click.option(
    "--max-weights",
    type=click.IntRange(1024),
    default=None,
    help="Code rows with about so many weights of each tensor: quicker, but scales then take a larger share.",
)
@click.option("--out", default=None, metavar="DIR", help="Write plots (PNG) and all figures (JSON) here.")
@with_output
def codec(
    output: Output,
    checkpoints: tuple[str, ...],
    codecs: tuple[str, ...],
    presets: tuple[str, ...],
    rates: tuple[float, ...],
    sources: tuple[str, ...],
    size: tuple[int, int],
    max_weights: int | None,
    out: str | None,
) -> None:
    """Rate and distortion beside Shannon's bound, all bytes counted.

    On samples of known sources, and on every tensor of CHECKPOINTS that the lossy coder takes; a folder that is no
    checkpoint itself stands for all that lie below it. Several codecs are compared on the tensors at equal error.

    Columns, in bits per weight: gap, above the rate-distortion function (for tensors, that of a Gaussian of their
    variance); side, headers and scales; coder, above these and the ideal code length; misfit, what tables made for just
    these points would save. ideal-scalar is no codec but a bound for scalar quantisers: entropy on normalised rows, no
    bytes written.
    """
    from nwc_workflows.bench.codec import encodings, run
    from nwc_workflows.bench.contenders import find_contenders
    from nwc_workflows.bench.plot_style import check_matplotlib
    from nwc_workflows.bench.plots import write_plots
    from nwc_workflows.bench.report import as_data, report_parts
    from nwc_workflows.bench.results import CodecBench
    from nwc_workflows.bench.sources import SOURCES
    from nwc_workflows.train import find_sources

    if out:
        check_matplotlib()
    folder = new_folder("--out", out)
    groups = find_contenders(codecs, [preset for preset in PRESETS if preset in (presets or PRESETS)])
    plan = CodecBench(groups, sorted(set(rates or _RATES)), max_weights)
    chosen = [SOURCES[name] for name in _SOURCES if name in (sources or (() if checkpoints else _SOURCES))]
    opened = find_sources(list(checkpoints)) if checkpoints else []
    with output.progress(encodings(plan, chosen, opened), "measure", "encodings") as progress:
        results = run(plan, chosen, size, opened, progress.advance)
    plots = partial(write_plots, results)
    finish(output, "codec", as_data(results), report_parts(results), folder, plots)


@bench.command()
@click.option("--codec", "name", default="default", show_default=True, help="A shipped codec, or a codec file.")
@click.option("--preset", "presets", multiple=True, type=click.Choice(PRESETS), help="Repeatable. [default, max]")
@click.option("--bits", type=click.FloatRange(0.25, 16), default=4.0, show_default=True, help="Bits per weight.")
@out_option
@with_output
def speed(output: Output, name: str, presets: tuple[str, ...], bits: float, out: str | None) -> None:
    """Speed of encoding and decoding beside memcpy, zstd and ZipNN, on one thread and on two.

    On bfloat16 weights: a linear layer of 4,096 x 1,024 and a convolution of 512 x 512 x 3 x 3. The fastest of several
    runs; the machine should have nothing else to do.
    """
    from dataclasses import asdict

    from nwc_core.codec import Codec
    from nwc_core.codec_file import NWC
    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.speed import baseline_speeds, codec_speeds, speed_sheet, speed_tensors

    folder = new_folder("--out", out)
    loaded = Codec.load(name)
    chosen = [preset for preset in PRESETS if preset in (presets or ("default", "max"))]
    data: dict[str, Any] = {"environment": environment(), "codec": loaded.digest, "bits": bits, "tensors": {}}
    parts: list[Part] = []
    for kind, weight in speed_tensors().items():
        speeds = list(baseline_speeds(weight))
        for preset in chosen if loaded.architecture == NWC else [None]:
            speeds += codec_speeds(loaded, weight, bits, preset)
        data["tensors"][kind] = {"shape": list(weight.shape), "speeds": [asdict(entry) for entry in speeds]}
        shape = " x ".join(map(str, weight.shape))
        parts += [f"{kind}, {shape} bfloat16 weights at {bits:g} bits per weight", speed_sheet(speeds)]
    finish(output, "speed", data, parts, folder)
