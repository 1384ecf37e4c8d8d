"""How all plots look, and whether any can be drawn."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from nwc_core.errors import UsageError

DPI = 150
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def check_matplotlib() -> None:
    """Raises UsageError, naming the extra to install, where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise UsageError("plots need matplotlib, which is not installed; wanted: pip install 'nwc[plots]'")
