"""How good a compressed model is, by one metric, on data that nothing was fitted to.

What is measured, and on which data, is what `nwc evaluate` measures; the original's outputs are kept where they are few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nwc_core.artifact.manifest import JobValue
from nwc_core.errors import UsageError
from nwc_workflows.evaluate import EvaluateOptions, Prepared, prepare
from nwc_workflows.evaluation.intervals import Bootstrap, Interval
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import StoredModel, open_model
from nwc_workflows.evaluation.task import Advance, Comparison
from nwc_workflows.targets import Target

if TYPE_CHECKING:
    import torch

    from nwc_workflows.calibration.reading import Calibration

Outputs = list["torch.Tensor"]
Measure = Callable[[Comparison, "Outputs | None", "Outputs | None"], Interval]


def open_meter(source: str, target: Target, options: EvaluateOptions, calibration: Calibration | None) -> Meter:
    """Prepare to measure.

    Args:
        source: path or URI of the checkpoint that is to be compressed.
        target: whose metric.
        options: data, and how to run the model on it.
        calibration: that the model is compressed with.

    Raises:
        UsageError: the metric is none of this kind of model; or the calibration saw the very same data.
        NwcError: model or data cannot be opened, see `nwc_workflows.evaluate.prepare`.
    """
    prepared = prepare(source, (), options)
    found = sorted(metric for metric, kind in _MEASURES if kind == prepared.kind)
    if target.metric not in found:
        raise UsageError(
            f"{target.metric}: no metric of a model of the kind {prepared.kind!r}; wanted {' or '.join(found)}"
        )
    digest = prepared.task.description["sha256"]
    if calibration is not None and calibration.record.data.get("sha256") == digest:
        raise UsageError(
            f"{options.data}: found the data that the model was calibrated on; wanted other data, of the same kind: what was "
            "fitted to it says nothing about the rest of the world"
        )
    return Meter(prepared, target.metric)


@dataclass
class Meter:
    """Measures compressed models, one after the other.

    Attributes:
        prepared: data, and the original.
        metric: of `nwc_workflows.targets`.
    """

    prepared: Prepared
    metric: str
    _kept: Outputs | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def description(self) -> Mapping[str, JobValue]:
        """Kind of model and data, as a manifest holds them."""
        described = self.prepared.task.description
        return {"quality_kind": self.prepared.kind, **{f"quality_{key}": value for key, value in described.items()}}

    @property
    def work(self) -> int:
        """Units of the data (see `unit`) that a measurement takes, the first perhaps more."""
        task = self.prepared.task
        return task.count * (1 if task.keeps_outputs else 2)

    @property
    def unit(self) -> str:
        """Plural of what the data is counted in."""
        return self.prepared.task.unit

    def measure(self, compressed: str, advance: Advance = lambda amount: None) -> Interval:
        """The metric of a compressed model, with its 95 % interval.

        Args:
            compressed: path or URI of an artifact.
            advance: called with units of `work` as they are done.

        Raises:
            FormatError: the model is damaged.
        """
        task = self.prepared.task
        if not task.keeps_outputs:
            original = task.outputs(self._load(self.prepared.original), advance)
            comparison = task.compare(original, task.outputs(self._load(open_model(compressed)), advance))
            return _MEASURES[self.metric, self.prepared.kind](comparison, None, None)
        if self._kept is None:
            self._kept = list(task.outputs(self._load(self.prepared.original), lambda amount: None))
        after = list(task.outputs(self._load(open_model(compressed)), advance))
        return _MEASURES[self.metric, self.prepared.kind](task.compare(self._kept, after), self._kept, after)

    def _load(self, stored: StoredModel) -> torch.nn.Module:
        settings = stored if stored.config is not None else self.prepared.original
        return load_model(stored, settings, self.prepared.kind, self.prepared.factory)


def _figure(name: str, change: Callable[[float], float]) -> Measure:
    """A figure of `nwc evaluate`, changed by a monotone function."""

    def measure(comparison: Comparison, before: Outputs | None, after: Outputs | None) -> Interval:
        found = comparison.compressed[name]
        assert isinstance(found, Interval)
        low, high = sorted((change(found.low), change(found.high)))
        return Interval(change(found.value), low, high)

    return measure


def _divergence(comparison: Comparison, before: Outputs | None, after: Outputs | None) -> Interval:
    """KL divergence of a classifier's answers from the original's, in nats per image."""
    import torch

    assert before is not None
    assert after is not None
    log_p, log_q = (torch.cat(outputs).double().log_softmax(-1) for outputs in (before, after))
    kl = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1).numpy()
    return Bootstrap({"kl": kl, "images": np.ones(len(kl))}).interval(lambda s: s["kl"] / s["images"])


_MEASURES: Mapping[tuple[str, str], Measure] = {
    ("kl", "language"): _figure("kl", lambda nats: nats),
    ("kl", "classifier"): _divergence,
    ("rel-error", "encoder"): _figure("error_db", lambda db: 10 ** (db / 10)),
    ("top1-drop", "language"): _figure("top1_agreement", lambda share: 100 * (1 - share)),
    ("top1-drop", "classifier"): _figure("accuracy_change", lambda change: -100 * change),
}
