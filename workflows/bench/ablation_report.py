"""Ablations in words, as plain data and as plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nwc_workflows.bench.ablation import Losses
from nwc_workflows.bench.bars import Panel, write_bars
from nwc_workflows.bench.codec import SEED
from nwc_workflows.bench.environment import environment
from nwc_workflows.bench.interval_text import interval_text
from nwc_workflows.bench.results import CodecResults
from nwc_workflows.bench.sheets import Part, Sheet
from nwc_workflows.bench.summary import Comparison
from nwc_workflows.wording import name_text

_UNIT = "bits per weight lost"


@dataclass(frozen=True)
class AblationReport:
    """All that `nwc bench ablation` found.

    Attributes:
        preset: of the whole codecs.
        ablations: of a codec's parts, and of the training where codecs were trained.
        per_rate: one for each rate that a codec was trained for alone; the one codec is the change.
    """

    preset: str
    ablations: Sequence[Losses]
    per_rate: Sequence[Losses]

    @property
    def _first(self) -> CodecResults:
        return self.ablations[0].results

    def parts(self) -> list[Part]:
        """Tables for people."""
        tensors = self._first.tensors
        weights = sum(tensor.coded_weights for tensor in tensors)
        names = ", ".join(name_text(checkpoint.name) for checkpoint in self._first.checkpoints)
        parts: list[Part] = [
            f"{len(tensors)} tensors of {names}, {weights:,} weights coded",
            "Bits per weight lost at equal mean squared error; mean over tensors (95 % confidence), less than 0: gained",
        ]
        for losses in self.ablations:
            for mean, of in _MEANS.items():
                parts += [f"{losses.ablation.title}; {of}", Sheet(*_table(losses, mean))]
        if self.per_rate:
            parts += [
                "Lost by one codec for all rates against one trained for the rate alone",
                self._rates_table(),
            ]
        if self._first.lossless:
            parts.append(f"left out, since coded without loss: {', '.join(map(name_text, self._first.lossless))}")
        return parts

    def data(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        bench = self._first.bench
        return {
            "environment": environment(),
            "preset": self.preset,
            "rates": list(bench.rates),
            "max_weights": bench.max_weights,
            "seed": SEED,
            "checkpoints": [{"name": c.name, "sha256": c.sha256} for c in self._first.checkpoints],
            "ablations": list(map(_data, self.ablations)),
            "per_rate": list(map(_data, self.per_rate)),
        }

    def write_plots(self, folder: Path) -> list[Path]:
        """Bars of all losses, by size, into a folder that exists; returns the files."""
        written = []
        for losses, name in zip(self.ablations, ("parts.png", "training.png"), strict=False):
            titles = [change.title for change in losses.ablation.changes]
            bars = {
                f"{rate:g} bits": [_loss(losses, title, rate).weighted for title in titles]
                for rate in losses.results.bench.rates
            }
            title = "Lost with one part changed, at equal error"
            written.append(write_bars(folder / name, title, _UNIT, titles, [Panel("", bars)]))
        if self.per_rate:
            found = [losses.comparisons[0] for losses in self.per_rate]
            names = [f"{comparison.wanted:g} bits" for comparison in found]
            panel = Panel("", {"one codec": [comparison.weighted for comparison in found]})
            title = "Lost by one codec for all rates against one for each"
            written.append(write_bars(folder / "per-rate.png", title, _UNIT, names, [panel]))
        return written

    def _rates_table(self) -> Sheet:
        headers = ("rate", "lost, by size", "lost, plain", "most on a tensor")
        return Sheet(headers, [_rate_row(losses.comparisons[0]) for losses in self.per_rate])


_MEANS = {"weighted": "mean by the tensors' sizes", "plain": "plain mean over tensors"}


def _table(losses: Losses, mean: str) -> tuple[Sequence[str], list[list[str]]]:
    """A row for each change, a column for each rate."""
    rates = losses.results.bench.rates
    rows = [
        [change.title, *(interval_text(getattr(_loss(losses, change.title, rate), mean)) for rate in rates)]
        for change in losses.ablation.changes
    ]
    return ("changed", *(f"{rate:g} bits" for rate in rates)), rows


def _rate_row(comparison: Comparison) -> list[str]:
    most = max(filter(math.isfinite, comparison.saved), default=math.nan)
    return [
        f"{comparison.wanted:g}",
        interval_text(comparison.weighted),
        interval_text(comparison.plain),
        f"{most:.4f}",
    ]


def _loss(losses: Losses, title: str, rate: float) -> Comparison:
    return next(c for c in losses.comparisons if (c.baseline, c.wanted) == (title, rate))


def _data(losses: Losses) -> dict[str, Any]:
    return {
        "title": losses.ablation.title,
        "codecs": [
            {"name": c.label, "digest": c.codec.digest, "training": c.codec.provenance.get("config")}
            for c in [losses.ablation.whole, *(v for change in losses.ablation.changes for v in change.variants)]
        ],
        "coded_losslessly": list(losses.results.lossless),
        "tensors": [
            {"checkpoint": t.checkpoint, "name": t.name, "shape": list(t.shape), "coded_weights": t.coded_weights}
            for t in losses.results.tensors
        ],
        # `wanted` is None for the mean over all rates; `lost` is by tensor, in the order above.
        "losses": [
            {
                "change": c.baseline,
                "wanted": c.wanted,
                "weighted": asdict(c.weighted),
                "plain": asdict(c.plain),
                "lost": list(c.saved),
            }
            for c in losses.comparisons
        ],
    }
