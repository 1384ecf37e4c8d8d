"""Compressing to a quality: artifacts are made on trial and measured, and only one that is good enough reaches the destination.

A trial is an artifact in a scratch place, made by the very same code and complete but for its place; the one that is chosen is
copied, byte for byte. Until then nothing is written to the destination, and if none is good enough, nothing at all.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory

from nwc_core.artifact.objects import ObjectKind, ObjectRef, check_object
from nwc_core.artifact.writer import commit, put_object
from nwc_core.errors import NwcError, UsageError
from nwc_core.rate_curve import RATES
from nwc_core.store import Store, open_store
from nwc_infra.cluster import cluster
from nwc_workflows.allocate import Measured, bits_for
from nwc_workflows.carried import Carried, write_files
from nwc_workflows.compress import CompressResult, compress, find_finished, measure, work
from nwc_workflows.evaluation.intervals import Interval
from nwc_workflows.plan import MIN_BITS, Plan
from nwc_workflows.progress import Progress
from nwc_workflows.quality import Meter
from nwc_workflows.search import Tried, next_bits, slope_of
from nwc_workflows.targets import Target

Show = Callable[[float, str, str], AbstractContextManager[Progress]]  # (total, description, unit), as Output.progress
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
    """What came of it: `trials` is empty if the artifact was there already."""

    compressed: CompressResult
    trials: tuple[Trial, ...]


def compress_to_quality(
    plan: Plan,
    destination: Store,
    meter: Meter,
    *,
    show: Show,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    scratch: str | None = None,
    address: str | None = None,
    workers: int | None = None,
) -> TrialsResult:
    """Make the smallest artifact that meets the plan's quality; or the one of the plan's size, if it passes its gate.

    Args:
        plan: with a quality or a gate among its options.
        destination: where the artifact goes.
        meter: for the metric of that.
        show: shows the progress of each step.
        on_trial: told of each trial.
        scratch: URI below which trials are kept, for the time being; None for a temporary folder of this machine.
        address, workers: as for `compress`.

    Raises:
        UsageError: a cluster, and no scratch place that its machines reach.
        NwcError: none is good enough, or whatever `compress` raises; nothing was written to the destination.
    """
    started = time.monotonic()
    if address is not None and scratch is None:
        raise UsageError("scratch: found none; wanted a place for trials that all machines of the cluster reach")
    there = find_finished(plan, destination)
    if there is not None:
        return TrialsResult(there, ())
    target = plan.options.quality or plan.options.gate
    assert target is not None
    with cluster(address, workers) as ray_cluster, _scratch(scratch) as place:
        run = _Trials(plan, target, meter, show, on_trial, place, ray_cluster.workers)
        best = run.search() if plan.options.quality is not None else run.pass_gate()
        created = _publish(best, plan, destination)
    done = replace(best.result, created=created, seconds=time.monotonic() - started)
    return TrialsResult(done, tuple(run.trials))


@dataclass(frozen=True)
class _Made:
    """A trial's artifact, and where it is."""

    result: CompressResult
    store: Store


@dataclass
class _Trials:
    plan: Plan
    target: Target
    meter: Meter
    show: Show
    on_trial: Callable[[Trial], None]
    place: str
    workers: int
    trials: list[Trial] = field(default_factory=list)
    _curves: dict[float, list[Measured]] = field(default_factory=dict)  # by the rate about which they were measured

    def pass_gate(self) -> _Made:
        """The artifact of the plan. Raises NwcError if it is not good enough."""
        made = self._make(self.plan)
        if not self.trials[-1].good:
            raise self._refused("gate", f"at {self.trials[-1].bits:.3f} bits per weight")
        return made

    def search(self) -> _Made:
        """The smallest artifact that is good enough. Raises NwcError if none is."""
        tried: list[Tried] = []
        best: _Made | None = None
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
                _clear(worse.store)
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

    def _make(self, plan: Plan) -> _Made:
        number = len(self.trials) + 1
        measured = self._measured(plan) if plan.allocates else None
        store = open_store(f"{self.place}/trial-{number}", "destination")
        with self.show(work(plan) / (2 if plan.allocates else 1), f"trial {number}: compress", "B") as progress:
            advance = progress.advance
            result = compress(plan, store, workers=self.workers, on_progress=advance, measured=measured)
        with self.show(self.meter.work, f"trial {number}: measure", self.meter.unit) as progress:
            value = self.meter.measure(store.uri, progress.advance)
        good = value.value <= self.target.value
        self.trials.append(Trial(result.bits_per_weight, result.weight_nbytes, value, good))
        self.on_trial(self.trials[-1])
        return _Made(result, store)

    def _refused(self, what: str, where: str) -> NwcError:
        found, target = self.trials[-1].measured, self.target
        return NwcError(
            f"{what}: found {target.metric} {found.value:.4g} ({found.low:.4g} to {found.high:.4g}) {where}; wanted at most "
            f"{target.value:g}; nothing was written"
        )


@contextmanager
def _scratch(uri: str | None) -> Iterator[str]:
    """A place of this run's own, emptied in the end."""
    if uri is None:
        with TemporaryDirectory(prefix="nwc-") as folder:
            yield folder
        return
    place = f"{uri.rstrip('/')}/nwc-{uuid.uuid4().hex}"
    try:
        yield place
    finally:
        _clear(open_store(place, "destination"))


def _clear(store: Store) -> None:
    for info in list(store.list()):
        store.delete(info.key)


def _publish(made: _Made, plan: Plan, destination: Store) -> bool:
    """Copy an artifact to the destination and commit it there; False if somebody made the very same in the meantime."""
    manifest = made.result.manifest
    refs: list[tuple[ObjectKind, ObjectRef]] = [("codec", manifest.codec), ("index", manifest.index)]
    refs += [("payload", ref) for ref in manifest.payloads]
    for kind, ref in refs:
        data = made.store.get(ref.object)
        check_object(data, ref.size, ref.sha256, f"{made.store.uri}/{ref.object}")
        put_object(destination, kind, data)
    write_files(Carried(tuple(manifest.files), tuple(manifest.derived)), plan.checkpoint, destination)
    return commit(destination, manifest)
