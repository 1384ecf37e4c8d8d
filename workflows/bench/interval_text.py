"""How a mean with its confidence interval looks in tables."""

from __future__ import annotations

from nwc_workflows.bench.statistics import Interval


def interval_text(interval: Interval) -> str:
    """0.1538 (0.1420 to 0.1650)."""
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"
