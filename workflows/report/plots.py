"""Drawings as SVG elements whose colours are those of the page, light or dark, and whose text is text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from nwc_workflows.bench.plot_style import check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib knows no CSS: these stand for variables of the page's style.
_INK, _SOFT, _LINE = "#010101", "#020202", "#030303"
COLOURS = tuple(f"#0{number}0{number}f0" for number in range(7))
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _LINE: "--line"} | {
    colour: f"--c{number}" for number, colour in enumerate(COLOURS)
}
_DASHES = ("--", ":", "-.")  # of bounds
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nwc",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        label: in the legend.
        x, y: of the points.
        low, high: ends of the intervals around y; empty for none.
        line: whether neighbours are joined.
        sizes: areas of the points; empty if all are alike.
        theory: a bound, drawn without points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    line: bool = True
    sizes: Sequence[float] = ()
    theory: bool = False


def chart(series: Sequence[Series], x: str, y: str, alt: str, *, log: bool = False) -> str:
    """Lines and points over two axes.

    Args:
        series: to draw, the first on top.
        x, y: what the axes are.
        alt: what it shows, for those who do not see it.
        log: whether y is logarithmic.

    Raises:
        UsageError: matplotlib is not installed.
    """
    with _drawing(9.2, 4.6, alt) as (axes, done):
        points = bounds = 0
        for one in series:
            if one.theory:
                dashes = _DASHES[bounds % len(_DASHES)]
                bounds += 1
                axes.plot(one.x, one.y, color=_INK, linestyle=dashes, linewidth=1.2, label=one.label, zorder=2)
                continue
            colour, marker = COLOURS[points % len(COLOURS)], MARKERS[points % len(MARKERS)]
            points += 1
            if one.sizes:
                axes.scatter(
                    one.x, one.y, s=one.sizes, color=colour, alpha=0.55, linewidths=0, label=one.label, zorder=3
                )
                continue
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "zorder": 3}
            if one.low:
                below = [max(0.0, value - low) for value, low in zip(one.y, one.low, strict=True)]
                above = [max(0.0, high - value) for value, high in zip(one.y, one.high, strict=True)]
                axes.errorbar(one.x, one.y, [below, above], linestyle="none", capsize=2, elinewidth=1, **style)
            axes.plot(one.x, one.y, linestyle="-" if one.line else "none", label=one.label, **style)
        if log:
            axes.set_yscale("log")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(loc="best", fontsize=10)
    return done()


@dataclass(frozen=True)
class Span:
    """A bar on a time line: in which row, from when to when in seconds, and of what colour."""

    row: int
    start: float
    stop: float
    colour: int = 0


def timeline(rows: Sequence[str], spans: Sequence[Span], alt: str, legend: Sequence[str]) -> str:
    """Bars over time, a row for each name, the first on top; `legend` names the colours."""
    with _drawing(9.2, 1.1 + 0.28 * len(rows), alt) as (axes, done):
        from matplotlib.patches import Patch

        for number in range(len(legend)):
            of = [span for span in spans if span.colour == number]
            axes.barh(
                [span.row for span in of],
                [span.stop - span.start for span in of],
                left=[span.start for span in of],
                height=0.72,
                color=COLOURS[number],
                linewidth=0,
            )
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds")
        if len(legend) > 1:
            patches = [Patch(color=COLOURS[number], label=name) for number, name in enumerate(legend)]
            axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(legend), fontsize=10)
    return done()


@contextmanager
def _drawing(width: float, height: float, alt: str) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Axes to draw on, and a function that gives the SVG afterwards."""
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    made: list[str] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        yield axes, lambda: made[0]
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    made.append(_of_page(out.getvalue(), alt))


def _of_page(svg: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    # Ids are made from what they stand for, so equal ones of two drawings in a page are the same thing.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(alt)}">',
        svg,
        count=1,
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font: ([^;\"']*?)'[^;]*?(?=[;\"])", r"font: \1system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
