"""Error of a model's outputs against bits per weight, all methods in one plot, as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_workflows.bench.models import ModelsResults, Point
from nwc_workflows.bench.plot_style import DPI, STYLE, check_matplotlib
from nwc_workflows.evaluation.intervals import Interval
from nwc_workflows.evaluation.models import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito; together with the markers there are 42 pairs.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#666666")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# What a kind of model is judged by in the plot: the figure, its name, and how it becomes an error above zero.
ERRORS: dict[Kind, tuple[str, str, Callable[[float], float]]] = {
    "language": ("kl", "KL divergence from the original, nats per token", lambda kl: kl),
    "encoder": ("error_db", "relative squared error of the embeddings", lambda db: 10 ** (db / 10)),
    "classifier": ("agreement", "part of the images answered differently", lambda agreement: 1 - agreement),
}


def write_plot(results: ModelsResults, path: Path) -> None:
    """Draw everything into a file. Points without any error have no place on a logarithmic axis and are left out."""
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    by_name: dict[str, list[Point]] = {}
    for point in results.points:
        by_name.setdefault(point.rival.name, []).append(point)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 5.4), layout="constrained")
        axes = figure.subplots()
        markers = cycle(_MARKERS)
        for (name, points), colour in zip(by_name.items(), cycle(_COLOURS), strict=False):
            _draw(axes, name, points, results.prepared.kind, colour, next(markers))
        axes.set_yscale("log")
        axes.set_ylabel(ERRORS[results.prepared.kind][1])
        over = "all bytes of the model" if results.subject.scope == "whole" else "linear layers alone"
        axes.set_xlabel(f"bits per weight ({over})")
        task = results.prepared.task
        axes.set_title(f"Error of the model's outputs, {task.count} {task.unit}; bars: 95 % confidence")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path, dpi=DPI)


def _draw(axes: Axes, name: str, points: Sequence[Point], kind: Kind, colour: str, marker: str) -> None:
    """All points, and a line through those that no cheaper setting of the method beats."""
    found = [(point.bits, error) for point in points if (error := _error(point, kind)).value > 0]
    if not found:
        return
    bits, errors = zip(*found, strict=True)
    values = [error.value for error in errors]
    below = [error.value - max(error.low, error.value * 1e-3) for error in errors]  # a logarithmic axis has no zero
    above = [error.high - error.value for error in errors]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2, "label": name}
    axes.errorbar(bits, values, [below, above], linestyle="none", **style)
    best = [i for i, value in enumerate(values) if value == min(values[: i + 1])]
    axes.plot([bits[i] for i in best], [values[i] for i in best], color=colour, linewidth=1)


def _error(point: Point, kind: Kind) -> Interval:
    key, _, convert = ERRORS[kind]
    figure = point.figures[key]
    assert isinstance(figure, Interval)
    low, high = sorted((convert(figure.low), convert(figure.high)))
    return Interval(convert(figure.value), low, high)
