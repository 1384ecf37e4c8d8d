"""Plots of the rate-distortion benchmark as PNG: one for each source, one for the tensors, one for the comparison.

A contender has the same colour and marker in all of them. Colours are those of Okabe and Ito, which people with the
common kinds of colour blindness can tell apart; markers and dashes say the same without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_core.codec import PRESETS
from nwc_workflows.bench.contenders import Contender
from nwc_workflows.bench.plot_style import DPI, STYLE, check_matplotlib
from nwc_workflows.bench.results import CodecBench, CodecResults, SourceResult
from nwc_workflows.bench.summary import Comparison, TensorSummary, compare, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OF_PRESET = {
    "scalar": ("#E69F00", "s"),
    "fast": ("#56B4E9", "^"),
    "default": ("#0072B2", "o"),
    "max": ("#009E73", "D"),
}
_OF_CODEC = (("#D55E00", "v"), ("#CC79A7", "P"), ("#666666", "X"))  # those without presets
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # by codec
_ASIDE = 0.05  # bits per weight between intervals at one rate
_DECIBEL = 10 * math.log10(2)  # of a factor of two


def write_plots(results: CodecResults, folder: Path) -> list[Path]:
    """Draw everything into a folder that exists; returns the files."""
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    summaries, comparisons = summarise(results.bench, results.tensors), compare(results.bench, results.tensors)
    written = []
    with mpl.rc_context(STYLE):
        for result in results.sources:
            figure = Figure(figsize=(11.5, 4.6), layout="constrained")
            _draw_source(figure, results.bench, result)
            written.append(_save(figure, folder / f"{result.source.name}.png"))
        if summaries:
            figure = Figure(figsize=(11.5, 4.6), layout="constrained")
            _draw_tensors(figure, results, summaries)
            written.append(_save(figure, folder / "tensors.png"))
        if comparisons:
            panels = len({comparison.baseline for comparison in comparisons})
            figure = Figure(figsize=(5 + 3.3 * panels, 4.6), layout="constrained")
            _draw_comparison(figure, results.bench, comparisons)
            written.append(_save(figure, folder / "saved.png"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path


def _styles(bench: CodecBench) -> dict[str, dict[str, Any]]:
    """How each contender is drawn: presets have colours, codecs dashes; a codec without presets has a colour."""
    styles: dict[str, dict[str, Any]] = {}
    several = sum(group[0].preset is not None for group in bench.groups) > 1
    dashes, plain = cycle(_DASHES), cycle(_OF_CODEC)
    for group in bench.groups:
        of_codec = next(plain) if group[0].preset is None else None
        dash = next(dashes) if of_codec is None else _DASHES[0]
        for contender in group:
            colour, marker = of_codec or _OF_PRESET[str(contender.preset)]
            own = contender.own_rates  # with nothing in between
            styles[contender.label] = {
                "color": colour,
                "marker": marker,
                "linestyle": "none" if own else dash,
                "linewidth": 1.6,
                "markersize": 9 if own else 5.5,
                "markerfacecolor": "none" if own else colour if dash == "-" else "white",
                "label": _legend(contender, several),
            }
    return styles


def _legend(contender: Contender, several: bool) -> str:
    if contender.preset is None:
        return contender.label
    states = PRESETS[contender.preset]
    text = f"{contender.preset} ({states} state{'s' if states > 1 else ''})"
    return f"{contender.name}: {text}" if several else text


def _draw_source(figure: Figure, bench: CodecBench, result: SourceResult) -> None:
    left, right = figure.subplots(1, 2)
    styles = _styles(bench)
    drawn = {label: points for label, points in result.points.items() if points}
    distortions = [point.mse for points in drawn.values() for point in points]
    x, y = _shannon(result, min(distortions), max(distortions))
    left.plot(x, y, color="black", linewidth=1.4, label="Shannon's bound")
    for label, points in drawn.items():
        rates = [point.bits for point in points]
        left.plot(rates, [-_DECIBEL * math.log2(point.mse) for point in points], **styles[label])
        right.plot(rates, [result.gap(point) for point in points], **styles[label])
    _label(left, right, "bits per weight above Shannon's bound")
    right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
    shape = " x ".join(map(str, result.shape))
    _finish(figure, left, f"{result.source.title}, {shape} independent samples")


def _shannon(result: SourceResult, least: float, most: float) -> tuple[list[float], list[float]]:
    """(rate, dB) along the source's bound, a quarter of a bit beyond the distortions given."""
    low, high = math.log2(least) - 0.5, min(math.log2(most) + 0.5, -1e-3)
    x = [low + (high - low) * i / 200 for i in range(201)]
    return [result.source.rate(2.0**value) for value in x], [-_DECIBEL * value for value in x]


def _draw_tensors(figure: Figure, results: CodecResults, summaries: Sequence[TensorSummary]) -> None:
    left, right = figure.subplots(1, 2)
    styles = _styles(results.bench)
    by_label: dict[str, list[TensorSummary]] = {}
    for summary in summaries:
        by_label.setdefault(summary.label, []).append(summary)
    bits = [summary.bits for summary in summaries]
    ends = [max(0.0, min(bits) - 0.25), max(bits) + 0.25]
    bound = "Shannon's bound if Gaussian"
    left.plot(ends, [2 * _DECIBEL * end for end in ends], color="black", linewidth=1.4, linestyle="--", label=bound)
    for label, rows in by_label.items():
        rates = [row.bits for row in rows]
        left.plot(rates, [-_DECIBEL * row.log2_distortion for row in rows], **styles[label])
        right.plot(rates, [row.gap_weighted.mean for row in rows], **styles[label])
        if rows[0].wanted is not None:
            low, high = ([getattr(row.gap_weighted, end) for row in rows] for end in ("low", "high"))
            right.fill_between(rates, low, high, color=styles[label]["color"], alpha=0.15, linewidth=0)
    right.axhline(0, color="black", linewidth=1.4, linestyle="--")
    _label(left, right, "R + ½ log2(D / variance), bits per weight")
    checkpoints = len(results.checkpoints)
    of = results.checkpoints[0].name if checkpoints == 1 else f"{checkpoints} checkpoints"
    title = f"{len(results.tensors)} tensors of {of}, mean by size; band: 95 % confidence over tensors"
    _finish(figure, left, title)


def _draw_comparison(figure: Figure, bench: CodecBench, comparisons: Sequence[Comparison]) -> None:
    """A panel for each baseline."""
    styles = _styles(bench)
    baselines = list(dict.fromkeys(comparison.baseline for comparison in comparisons))
    labels = list(dict.fromkeys(comparison.label for comparison in comparisons))
    panels = figure.subplots(1, len(baselines), sharey=True, squeeze=False)[0]
    for axes, baseline in zip(panels, baselines, strict=True):
        for number, label in enumerate(labels):
            shift = _ASIDE * (number - (len(labels) - 1) / 2)  # so that no interval hides another
            rows = [row for row in comparisons if (row.label, row.baseline) == (label, baseline) and row.wanted]
            rates = [float(row.wanted or 0) + shift for row in rows]
            means = [row.weighted.mean for row in rows]
            below = [row.weighted.mean - row.weighted.low for row in rows]
            above = [row.weighted.high - row.weighted.mean for row in rows]
            axes.errorbar(rates, means, [below, above], capsize=2.5, **styles[label])
        axes.axhline(0, color="black", linewidth=1)
        axes.set_title(f"against {baseline}")
        axes.set_xlabel("rate, bits per weight")
        axes.locator_params(axis="x", integer=True)
    panels[0].set_ylabel("bits per weight saved")
    _finish(figure, panels[0], "Saved at equal mean squared error, mean over tensors by size; bars: 95 % confidence")


def _label(left: Axes, right: Axes, gap: str) -> None:
    """Titles, units and a common rate axis for the two panels."""
    left.set_title("Rate and distortion")
    left.set_ylabel("variance / mean squared error, dB")
    left.locator_params(axis="y", integer=True)
    right.set_title("Distance to the bound")
    right.set_ylabel(gap)
    for axes in (left, right):
        axes.set_xlabel("rate, bits per weight (all bytes counted)")
        axes.set_xlim(left.get_xlim())
        axes.locator_params(axis="x", integer=True)


def _finish(figure: Figure, axes: Axes, title: str) -> None:
    """Title, and the legend of one panel right of all of them, outside of the data."""
    figure.suptitle(title, fontsize=12)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
