"""Bars with confidence intervals as PNG: differences between codecs, grouped under names that are read, so horizontal.

Colours are those of Okabe and Ito, which people with the common kinds of colour blindness can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nwc_workflows.bench.plot_style import DPI, STYLE, check_matplotlib
from nwc_workflows.bench.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#D55E00", "#666666")
_THICKNESS = 0.8  # of a group of bars, where groups are 1 apart
_INCHES_PER_BAR, _INCHES_PER_GROUP, _INCHES_AROUND = 0.13, 0.14, 1.7
_PANEL_INCHES, _LABEL_INCHES = 3.6, 3.6
_STYLE: Any = {**STYLE, "axes.spines.left": False, "axes.grid.axis": "x", "ytick.major.size": 0}


@dataclass(frozen=True)
class Panel:
    """Bars side by side with those of other panels, under the same names.

    Attributes:
        title: above it.
        bars: by what the legend calls them, an interval for each name; NaN where there is none.
    """

    title: str
    bars: Mapping[str, Sequence[Interval]]


def write_bars(path: Path, title: str, unit: str, names: Sequence[str], panels: Sequence[Panel]) -> Path:
    """Draw panels side by side, and say which colour is what where there are several.

    Args:
        path: of the PNG; its folder exists.
        title: of the figure.
        unit: label of the value axes.
        names: of the groups of bars, from the top down.
        panels: all with the same legend.

    Raises:
        UsageError: matplotlib is missing.
    """
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    count = len(panels[0].bars)
    height = _INCHES_AROUND + len(names) * (_INCHES_PER_GROUP + _INCHES_PER_BAR * count)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_LABEL_INCHES + _PANEL_INCHES * len(panels), max(2.6, height)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _draw(ax, panel, len(names))
            ax.set_xlabel(unit)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        figure.suptitle(title, fontsize=12)
        if count > 1:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.savefig(path, dpi=DPI)
    return path


def _draw(ax: Axes, panel: Panel, groups: int) -> None:
    thickness = _THICKNESS / len(panel.bars)
    for number, (label, intervals) in enumerate(panel.bars.items()):
        shift = thickness * (number - (len(panel.bars) - 1) / 2)
        known = [(i + shift, x) for i, x in zip(range(groups), intervals, strict=True) if math.isfinite(x.mean)]
        places, found = [place for place, _ in known], [x for _, x in known]
        means = [x.mean for x in found]
        ax.barh(places, means, thickness * 0.9, color=_COLOURS[number % len(_COLOURS)], label=label)
        around = [[x.mean - x.low for x in found], [x.high - x.mean for x in found]]
        ax.errorbar(means, places, xerr=around, fmt="none", ecolor="#222222", elinewidth=0.9, capsize=1.8)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_title(panel.title)
