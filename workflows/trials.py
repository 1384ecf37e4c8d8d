"""Compressing to a quality: artifacts are made on trial and measured, and only one that is good enough reaches the destination.

A trial is an artifact in a scratch place, made by the very same code and complete but for its place; the one that is chosen is
copied, byte for byte. Until then nothing is written to the destination, and if none is good enough, nothing at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from nwc_core.errors import NwcError
from nwc_core.rate_curve import RATES
from nwc_core.store import Store, open_store
from nwc_infra.capacity import Capacity
from nwc_infra.cluster import cluster
from nwc_workflows.allocate import Measured, bits_for
from nwc_workflows.compress import CompressResult, compress, find_finished, measure, work
from nwc_workflows.evaluation.intervals import Interval
from nwc_workflows.plan import MIN_BITS, Plan
from nwc_workflows.quality import Meter
from nwc_workflows.recovery.on_trial import recovered
from nwc_workflows.recovery.recover import Recovered, Recovery
from nwc_workflows.scratch import Made, Show, check_reachable, clear, publish, scratch_place
from nwc_workflows.search import Tried, next_bits, slope_of
from nwc_workflows.targets import Target

_DECIMALS = 3  # of the rates that are tried: these are what a manifest will hold
# Share of predictions lost at a divergence of 1, of which it goes with the root: measured on small models, for a first guess.
_LOST = {"language": 0.73, "classifier": 0.05}


@dataclass(frozen=True)
class Trial:
    """An artifact that was made and measured.

    Attributes:
        bits: per weight, over all bytes that hold weights.
        weight_nbytes: these bytes.
        measured: the metric.
        good: whether it is good enough.
    """

    bits: float
    weight_nbytes: int
    measured: Interval
    good: bool


@dataclass(frozen=True)
class TrialsResult:
    """What came of it: `trials` is empty if the artifact was there already.

    Attributes:
        compressed: the artifact chosen.
        trials: all that were made and measured.
        recovered: what recovery did to the one chosen; None without, or if the artifact was there already.
    """

    compressed: CompressResult
    trials: tuple[Trial, ...]
    recovered: Recovered | None = None


def compress_to_quality(
    plan: Plan,
    destination: Store,
    meter: Meter,
    *,
    show: Show,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    recovery: Recovery | None = None,
    scratch: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    capacity: Capacity | None = None,
) -> TrialsResult:
    """Make the smallest artifact that meets the plan's quality; or the one of the plan's size, if it passes its gate.

    Args:
        plan: with a quality or a gate among its options.
        destination: where the artifact goes.
        meter: for the metric of that.
        show: shows the progress of each step.
        on_trial: told of each trial.
        recovery: tunes each artifact before it is measured; the plan has room for it.
        scratch: URI below which trials are kept, for the time being; None for a temporary folder of this machine.
        address, workers, capacity: as for `compress`.

    Raises:
        UsageError: a cluster, and no scratch place that its machines reach.
        NwcError: none is good enough, or whatever `compress` raises; nothing was written to the destination.
    """
    started = time.monotonic()
    check_reachable(scratch, address)
    there = find_finished(plan, destination)
    if there is not None:
        return TrialsResult(there, ())
    target = plan.options.quality or plan.options.gate
    assert target is not None
    with cluster(address, workers) as ray_cluster, scratch_place(scratch) as place:
        run = _Trials(plan, target, meter, show, on_trial, recovery, place, ray_cluster.workers, capacity)
        best = run.search() if plan.options.quality is not None else run.pass_gate()
        created = publish(best, plan, destination)
    done = replace(best.result, created=created, seconds=time.monotonic() - started)
    return TrialsResult(done, tuple(run.trials), best.recovered)


@dataclass
class _Trials:
    plan: Plan
    target: Target
    meter: Meter
    show: Show
    on_trial: Callable[[Trial], None]
    recovery: Recovery | None
    place: str
    workers: int
    capacity: Capacity | None
    trials: list[Trial] = field(default_factory=list)
    _curves: dict[float, list[Measured]] = field(default_factory=dict)  # by the rate about which they were measured

    def pass_gate(self) -> Made:
        """The artifact of the plan. Raises NwcError if it is not good enough."""
        made = self._make(self.plan)
        if not self.trials[-1].good:
            raise self._refused("gate", f"at {self.trials[-1].bits:.3f} bits per weight")
        return made

    def search(self) -> Made:
        """The smallest artifact that is good enough. Raises NwcError if none is."""
        tried: list[Tried] = []
        best: Made | None = None
        bits: float | None = self._first_bits()
        while bits is not None:
            scale = 10**_DECIMALS
            plan = self.plan.with_bits(math.ceil(self.plan.overall(bits) * scale) / scale)
            made = self._make(plan)
            trial = self.trials[-1]
            tried.append(Tried(plan.bits, trial.measured.value))
            worse = made
            if trial.good and (best is None or made.result.weight_nbytes < best.result.weight_nbytes):
                worse, best = best or made, made
            if worse is not best:
                clear(worse.store)
            slope = slope_of(self.target.metric)
            bits = next_bits(tried, self.target.value, slope, MIN_BITS, float(RATES[-1]))
        if best is None:
            raise self._refused("quality", f"at the highest rate tried, {self.trials[-1].bits:.3f} bits per weight")
        return best

    def _first_bits(self) -> float:
        if not self.plan.allocates:
            return self.plan.bits
        value = self.target.value
        lost = _LOST.get(self.meter.prepared.kind, 1.0)
        loss = (value / (100 * lost)) ** 2 if self.target.metric == "top1-drop" else value
        return max(MIN_BITS, bits_for(self._measured(self.plan), loss))

    def _measured(self, plan: Plan) -> list[Measured]:
        at = plan.measured_at
        if at not in self._curves:
            with self.show(work(plan) / 2, "measure weights", "B") as progress:
                self._curves[at] = measure(plan, workers=self.workers, on_progress=progress.advance)
        return self._curves[at]

    def _make(self, plan: Plan) -> Made:
        number = len(self.trials) + 1
        measured = self._measured(plan) if plan.allocates else None
        store = open_store(f"{self.place}/trial-{number}", "destination")
        with self.show(work(plan) / (2 if plan.allocates else 1), f"trial {number}: compress", "B") as progress:
            advance = progress.advance
            bounds: dict[str, Any] = {"workers": self.workers, "capacity": self.capacity}
            result = compress(plan, store, **bounds, on_progress=advance, measured=measured)
        made = Made(result, store)
        if self.recovery is not None:
            made = recovered(made, plan, self.recovery, self.show, f"trial {number}: recover")
        with self.show(self.meter.work, f"trial {number}: measure", self.meter.unit) as progress:
            value = self.meter.measure(store.uri, progress.advance)
        good = value.value <= self.target.value
        self.trials.append(Trial(made.result.bits_per_weight, made.result.weight_nbytes, value, good))
        self.on_trial(self.trials[-1])
        return made

    def _refused(self, what: str, where: str) -> NwcError:
        found, target = self.trials[-1].measured, self.target
        return NwcError(
            f"{what}: found {target.metric} {found.value:.4g} ({found.low:.4g} to {found.high:.4g}) {where}; wanted at most "
            f"{target.value:g}; nothing was written"
        )
