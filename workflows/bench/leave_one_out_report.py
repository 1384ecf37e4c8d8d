"""What codecs save on families that they never saw: in words, as plain data and as plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nwc_workflows.bench.bars import Panel, write_bars
from nwc_workflows.bench.codec import SEED
from nwc_workflows.bench.contenders import CodecContender
from nwc_workflows.bench.environment import environment
from nwc_workflows.bench.families import ALL, Family
from nwc_workflows.bench.interval_text import interval_text
from nwc_workflows.bench.leave_one_out import LeaveOneOut, LeftOut, Savings
from nwc_workflows.bench.results import TensorResult
from nwc_workflows.bench.sheets import Part, Sheet
from nwc_workflows.bench.statistics import Interval, mean_interval
from nwc_workflows.bench.summary import Comparison
from nwc_workflows.wording import name_text

_SAVED = ("saved, by size", "saved, plain", "least tensor")
_UNIT = "bits per weight saved"


@dataclass(frozen=True)
class LeaveOneOutReport:
    """All that `nwc bench leave-one-out` found.

    Attributes:
        plan: what was asked for.
        results: one for each family.
    """

    plan: LeaveOneOut
    results: Sequence[LeftOut]

    @cached_property
    def savings(self) -> dict[str, Savings]:
        """By family, then over all."""
        single = {result.family.name: self.plan.savings([result]) for result in self.results}
        return {**single, ALL: self.plan.savings(self.results)}

    def parts(self) -> list[Part]:
        """Tables for people."""
        parts: list[Part] = ["Bits per weight saved at equal mean squared error by codecs that never saw the family;"]
        parts.append("mean over all rates and over tensors (95 % confidence)")
        rows = [
            [name, len(c.saved), c.label, c.baseline, *_saved(c)]
            for name, savings in self.savings.items()
            for c in savings.references
            if c.wanted is None
        ]
        parts.append(Sheet(("family", "tensors", "codec", "against", *_SAVED), rows))
        parts.append("Over all families, by rate")
        rows = [
            [c.label, c.baseline, f"{c.wanted:g}", *_saved(c)]
            for c in self.savings[ALL].references
            if c.wanted is not None
        ]
        parts.append(Sheet(("codec", "against", "rate", *_SAVED), rows))
        rows = [
            [name, len(c.saved), what, "all" if c.wanted is None else f"{c.wanted:g}", *_saved(c)]
            for name, savings in self.savings.items()
            for what, found in (("transform alone", savings.transform), ("bases besides", savings.bases))
            for c in found
            if c.wanted is None or name == ALL
        ]
        if rows:
            parts.append(f"Kernels of 3x3, preset {self.plan.presets[0]}")
            parts.append(Sheet(("family", "tensors", "by", "rate", *_SAVED), rows))
        for reference, families in self.known.items():
            if families:
                parts.append(f"{reference} was trained on: {', '.join(families)}")
        for what, of in (("", "lossless"), (" of kernels", "lossless_convolutions")):
            names = [name for result in self.results for name in getattr(result, of)]
            if names:
                parts.append(f"left out{what}, since coded without loss: {', '.join(map(name_text, names))}")
        return parts

    def data(self) -> dict[str, Any]:
        """Everything as plain data, for JSON. By-tensor figures are in the order of the tensors listed."""
        return {
            "environment": environment(),
            "presets": list(self.plan.presets),
            "rates": list(self.plan.rates),
            "max_weights": self.plan.max_weights,
            "seed": SEED,
            "references": [
                {"name": group[0].name, "digest": _digest(group[0]), "trained_on": self.known.get(group[0].name, [])}
                for group in self.plan.references
            ],
            "families": [
                {
                    "name": result.family.name,
                    "checkpoints": [{"name": s.name, "sha256": s.sha256} for s in result.family.sources],
                    "codec": result.codec.digest,
                    "training": result.codec.provenance,
                    "tensors": list(map(_tensor, result.tensors)),
                    "convolutions": list(map(_tensor, result.convolutions)),
                    "coded_losslessly": list(result.lossless),
                    "convolutions_coded_losslessly": list(result.lossless_convolutions),
                    "saved": _savings_data(self.savings[result.family.name]),
                }
                for result in self.results
            ],
            ALL: {"saved": _savings_data(self.savings[ALL])},
        }

    def write_plots(self, folder: Path) -> list[Path]:
        """Bars of what is saved, by size, mean over rates, into a folder that exists; returns the files."""
        names = list(self.savings)
        found = [c for savings in self.savings.values() for c in savings.references]
        labels, baselines = (list(dict.fromkeys(getattr(c, of) for c in found)) for of in ("label", "baseline"))

        def bars(label: str, baseline: str) -> list[Interval]:
            return [_mean(savings.references, label, baseline) for savings in self.savings.values()]

        panels = [Panel(f"against {b}", {label: bars(label, b) for label in labels}) for b in baselines]
        title = "Saved at equal error by codecs that never saw the family"
        written = [write_bars(folder / "saved.png", title, _UNIT, names, panels)] if panels else []
        with_kernels = {name: savings for name, savings in self.savings.items() if savings.transform}
        if with_kernels:
            by = {
                "learned transform alone": [_mean(savings.transform) for savings in with_kernels.values()],
                "bases besides": [_mean(savings.bases) for savings in with_kernels.values()],
            }
            title = "Saved on 3x3 kernels of families never seen"
            written.append(write_bars(folder / "kernels.png", title, _UNIT, list(with_kernels), [Panel("", by)]))
        return written

    @cached_property
    def known(self) -> dict[str, list[str]]:
        """By reference: families that its training saw, which favours it."""
        references = [group[0] for group in self.plan.references]
        return {c.name: _seen(c, self.plan.families) for c in references if isinstance(c, CodecContender)}


def _seen(reference: CodecContender, families: Sequence[Family]) -> list[str]:
    learned_from = reference.codec.provenance.get("sources")  # a file may hold anything here
    described = (
        [source for source in learned_from if isinstance(source, dict)] if isinstance(learned_from, list) else []
    )
    digests = [source.get("sha256") for source in described]
    return [family.name for family in families if any(source.sha256 in digests for source in family.sources)]


def _mean(comparisons: Sequence[Comparison], label: str | None = None, baseline: str | None = None) -> Interval:
    """Over all rates, by size; of whichever label and baseline there is where none is given."""
    for c in comparisons:
        if c.wanted is None and label in (None, c.label) and baseline in (None, c.baseline):
            return c.weighted
    return mean_interval([])


def _saved(comparison: Comparison) -> list[str]:
    least = min(filter(math.isfinite, comparison.saved), default=math.nan)
    return [interval_text(comparison.weighted), interval_text(comparison.plain), f"{least:.4f}"]


def _digest(contender: object) -> str | None:
    return contender.codec.digest if isinstance(contender, CodecContender) else None


def _tensor(tensor: TensorResult) -> dict[str, Any]:
    shape, coded = list(tensor.shape), tensor.coded_weights
    return {"checkpoint": tensor.checkpoint, "name": tensor.name, "shape": shape, "coded_weights": coded}


def _savings_data(savings: Savings) -> dict[str, Any]:
    return {what: [asdict(c) for c in found] for what, found in vars(savings).items()}
