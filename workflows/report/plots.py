"""Plots: axes that look alike, series with markers and intervals, Shannon's bound; drawn by matplotlib, coloured by the page.

Legends are not drawn: the page has them as text, which wraps where there is no room.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nwc_workflows.bench.plot_style import check_matplotlib
from nwc_workflows.report.svg import ACCENT, GRID, INK, MUTED, PAPER, SERIES_COLOURS, StyleSheet, page_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTH, _HEIGHT = 640, 380  # of the picture, in its own units, in which text is as large as the style sheet says
_MARGINS = {"left": 0.095, "right": 0.975, "bottom": 0.17, "top": 0.88}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nwc",
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False,
    "font.size": 13,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 1,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "text.color": MUTED,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Series:
    """Points of a plot.

    Attributes:
        label: in the legend.
        x, y: of the points.
        tips: what to say of each.
        low, high: ends of intervals of y, as many as points; empty for none.
        number: of the colour and the marker; None for the accent.
        line: whether lines join them: "solid", "dashed", or "" for none.
        joined: which of them; None for all.
        marked: whether points have markers.
        band: whether intervals are drawn as a band, rather than as bars.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    tips: tuple[str, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    number: int | None = None
    line: str = "solid"
    joined: tuple[int, ...] | None = None
    marked: bool = True
    band: bool = False

    @property
    def marker(self) -> str:
        """matplotlib's name of it; "" for none."""
        at = self.number or 0
        return MARKERS[(at + at // len(SERIES_COLOURS)) % len(MARKERS)] if self.marked else ""


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: unique on the page.
        title: above it.
        x, y: titles of the axes.
        series: in the legend's order.
        bound: label of a line that nothing gets below; its points are `bound_x` and `bound_y`.
        note: below it.
        logarithmic: whether y is.
        zero: whether a line marks y = 0.
        least: the least that the axes span, so that what is all the same looks so.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    bound: str = ""
    bound_x: tuple[float, ...] = field(default=(), repr=False)
    bound_y: tuple[float, ...] = field(default=(), repr=False)
    note: str = ""
    logarithmic: bool = False
    zero: bool = False
    least: tuple[float, float] = (0.5, 0.0)

    def svg(self, sheet: StyleSheet) -> Markup:
        """Draw it. Equal plots and an equal matplotlib give equal text.

        Raises:
            UsageError: matplotlib is not installed.
        """
        tips = {f"series-{at}": series.tips for at, series in enumerate(self.series) if series.tips}
        with _axes() as (axes, out):
            if self.logarithmic:
                axes.set_yscale("log")
            for at, series in enumerate(self.series):
                _draw(axes, series, f"series-{at}")
            _widen(axes, self)
            if self.bound:
                limits = axes.get_xlim(), _with_bound(axes, self)
                axes.plot(self.bound_x, self.bound_y, color=INK, linewidth=1.5, linestyle=(0, (5, 3)))
                axes.set_xlim(limits[0])
                axes.set_ylim(limits[1])
            if self.zero:
                axes.axhline(0, color=INK, linewidth=1.5, linestyle=(0, (5, 3)))
            _label(axes, self)
        return page_svg(out.getvalue(), self.name, self.title, sheet, tips)


@contextmanager
def _axes() -> Iterator[tuple[Axes, io.BytesIO]]:
    """Axes to draw into, and what they become at the end."""
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    out = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own settings must not change the bytes
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        axes = figure.subplots(gridspec_kw=_MARGINS)
        yield axes, out
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )


def _draw(axes: Axes, series: Series, gid: str) -> None:
    colour = ACCENT if series.number is None else SERIES_COLOURS[series.number % len(SERIES_COLOURS)]
    if series.band and series.low:
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.15, linewidth=0)
    elif series.low:
        below = [value - low for value, low in zip(series.y, series.low, strict=True)]
        above = [high - value for value, high in zip(series.y, series.high, strict=True)]
        axes.errorbar(series.x, series.y, [below, above], fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5)
    if series.line:
        dashes: Any = "-" if series.line == "solid" else (0, (4, 2))
        joined = range(len(series.x)) if series.joined is None else series.joined
        x, y = [series.x[at] for at in joined], [series.y[at] for at in joined]
        axes.plot(x, y, color=colour, linewidth=1.8, linestyle=dashes)
    if series.marked:
        points = axes.plot(series.x, series.y, color=colour, linestyle="none", marker=series.marker)[0]
        points.set_markersize(5 if len(series.x) > 500 else 7)
        points.set_markeredgecolor(PAPER)
        points.set_markeredgewidth(0.8)
        points.set_gid(gid)


def _widen(axes: Axes, plot: Plot) -> None:
    axes.set_xlim(*_spanning(axes.get_xlim(), plot.least[0]))
    axes.set_ylim(*_spanning(axes.get_ylim(), plot.least[1]))


def _with_bound(axes: Axes, plot: Plot) -> tuple[float, float]:
    """Ends of y that show the bound from one side to the other."""
    from numpy import interp

    low, high = axes.get_ylim()
    at_sides = [float(value) for value in interp(axes.get_xlim(), plot.bound_x, plot.bound_y)]
    return min(low, *at_sides), max(high, *at_sides)


def _spanning(ends: tuple[float, float], least: float) -> tuple[float, float]:
    if ends[1] - ends[0] >= least:
        return ends
    middle = (ends[0] + ends[1]) / 2
    return middle - least / 2, middle + least / 2


def _label(axes: Axes, plot: Plot) -> None:
    """Titles of the axes, that of y lying above it where it takes no width; few ticks, which narrow screens have room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(plot.x, loc="right", labelpad=8)
    axes.text(-0.085, 1.06, plot.y, transform=axes.transAxes, ha="left", va="bottom")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if plot.logarithmic:
        low, high = axes.get_ylim()
        decades = math.log10(high / low)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def shannon_gaussian(bits: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(rates, relative squared errors in dB) on Shannon's bound for a Gaussian, around these rates."""
    ends = max(0.0, min(bits, default=0.0) - 1), max(bits, default=8.0) + 1
    return ends, tuple(-20 * math.log10(2) * end for end in ends)
