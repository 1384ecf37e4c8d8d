"""Measuring what each part of a codec is worth: bits lost at equal mean squared error, in bytes that were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nwc_core.errors import UsageError
from nwc_workflows.bench.codec import OnProgress, encodings, run
from nwc_workflows.bench.contenders import CodecContender
from nwc_workflows.bench.results import CodecBench, CodecResults
from nwc_workflows.bench.summary import Comparison, compare
from nwc_workflows.bench.variants import Ablation
from nwc_workflows.train import TrainingSource

# Changes are measured this far above every rate too: interpolation over a quarter of a bit, at rates next to those that
# are compared, is good to less than a thousandth of one.
_ABOVE = 0.25


@dataclass(frozen=True)
class _Changed(CodecContender):
    """A contender with settings of its own: rates and what lies a little above them."""

    chosen: tuple[float, ...] = ()

    @property
    def own_rates(self) -> bool:
        return True

    def settings(self, rates: Sequence[float]) -> Sequence[float]:
        return self.chosen


@dataclass(frozen=True)
class Measuring:
    """What is measured, and on what.

    Attributes:
        rates: in bits per weight, rising.
        checkpoints: every tensor of theirs that the lossy coder takes is coded.
        max_weights: of a tensor that take part; None for all.
    """

    rates: Sequence[float]
    checkpoints: Sequence[TrainingSource]
    max_weights: int | None = None

    def encodings(self, ablation: Ablation) -> int:
        """How many encodings `measure` makes at most."""
        return encodings(self._bench(ablation), [], self.checkpoints)

    def measure(self, ablation: Ablation, on_progress: OnProgress) -> Losses:
        """Code every tensor with the whole codec and with every change.

        Raises:
            UsageError: the checkpoints hold nothing that all of them code lossily.
        """
        results = run(self._bench(ablation), [], (0, 0), self.checkpoints, on_progress)
        if not results.tensors:
            raise UsageError("checkpoints: found no tensor that is coded lossily; wanted at least one to measure on")
        titles = {change.variants[0].label: change.title for change in ablation.changes}
        found = [
            replace(comparison, baseline=titles[comparison.baseline])
            for comparison in compare(results.bench, results.tensors)
            if comparison.baseline in titles  # not the best of all changes
        ]
        return Losses(ablation, results, found)

    def _bench(self, ablation: Ablation) -> CodecBench:
        chosen = tuple(sorted({rate + above for rate in self.rates for above in (0, _ABOVE)}))
        changed = [
            [_Changed(v.name, v.codec, v.preset, chosen) for v in change.variants] for change in ablation.changes
        ]
        return CodecBench([[ablation.whole], *changed], self.rates, self.max_weights)


@dataclass(frozen=True)
class Losses:
    """What an ablation came to.

    Attributes:
        ablation: what was compared.
        results: every encoding.
        comparisons: of the whole codec with each change (`baseline` holds its title): the bits that the whole codec saves are
            those that the change loses.
    """

    ablation: Ablation
    results: CodecResults
    comparisons: Sequence[Comparison]
