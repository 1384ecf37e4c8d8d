"""Calibrating: run a model on data and store, for every weight, what an error in it does to the model's output.

The model is surveyed, then every (group of weights, chunk of items) is one task on Ray that stores its partial sums,
then sums become statistics. What was stored by a run that was stopped is not computed again. Sums are added in the
order of the items, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.errors import AlreadyExistsError, NotFoundError, UsageError
from nwc_core.store import Store
from nwc_infra.cluster import cluster
from nwc_infra.scheduler import Job, Outcome, run_bounded
from nwc_workflows.calibration.finish import Finished
from nwc_workflows.calibration.partials import PREFIX, find_partials, partial_prefix
from nwc_workflows.calibration.plan import cut_items, families, fingerprint, group_weights, pack_families
from nwc_workflows.calibration.preparation import Prepared
from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.calibration.record import RECORD_KEY, CalibrationRecord, Unreached
from nwc_workflows.calibration.survey import Survey
from nwc_workflows.calibration.tasks import finish, finish_job, measure, measure_job, survey_job, take_survey
from nwc_workflows.destination import check_holds_no

DEFAULT_MAX_MEMORY = 2 << 30
R = TypeVar("R")


@dataclass(frozen=True)
class CalibrateResult:
    """A finished calibration.

    Attributes:
        calibration: opened.
        created: False if the very same one was there already.
        resumed: tasks whose partial sums were there.
        groups: of weights; the model ran on all items for each.
        seconds: wall time.
    """

    calibration: Calibration
    created: bool
    resumed: int
    groups: int
    seconds: float


def calibrate(
    prepared: Prepared,
    destination: Store,
    *,
    max_memory: int = DEFAULT_MAX_MEMORY,
    address: str | None = None,
    workers: int | None = None,
    on_progress: Callable[[float], None] = lambda items: None,
) -> CalibrateResult:
    """Run a calibration.

    Args:
        prepared: from `nwc_workflows.calibration.preparation.prepare`.
        destination: where it goes.
        max_memory: bytes of sums that one task adds up; a weight that takes more is alone. No result depends on it.
        address: of a running Ray cluster; None starts a local one for the duration.
        workers: tasks at once; None for one per CPU.
        on_progress: called with items that are done; a part of each item for each group of weights.

    Raises:
        UsageError: the destination lies inside the model's folder; or a task needs more memory than any node has.
        AlreadyExistsError: the destination holds another calibration, or an artifact; nothing was touched.
        NwcError: a task failed; nothing was committed.
    """
    started = time.monotonic()
    source = prepared.source.location.rstrip("/")
    if f"{destination.uri}/".startswith(f"{source}/"):
        raise UsageError(
            f"destination: found {destination.uri}, inside the model {source}; wanted a place outside of it"
        )
    check_holds_no(MANIFEST_KEY, "an artifact", destination)
    with cluster(address, workers) as ray_cluster:
        run = _Run(prepared, destination, ray_cluster.workers)
        existing = run.existing()
        if existing is not None:
            on_progress(prepared.items.count)
            _clean(destination)
            return CalibrateResult(existing, False, 0, 0, time.monotonic() - started)
        groups = group_weights(run.found.placements, max_memory)
        partials, resumed = run.measure(groups, on_progress)
        record = run.finish(groups, partials)
    created = _commit(destination, record)
    _clean(destination)
    return CalibrateResult(Calibration.open(destination), created, resumed, len(groups), time.monotonic() - started)


class _Run:
    """The three steps, each a set of tasks."""

    def __init__(self, prepared: Prepared, destination: Store, workers: int) -> None:
        self.prepared, self.store, self.workers = prepared, destination, workers
        self.items, self.input_only = prepared.items, prepared.options.input_only
        self.chunks = cut_items(self.items.count)
        weights = prepared.source.open().weights
        self.found: Survey
        (self.found,) = self._all(take_survey, [survey_job(prepared.source, weights)], {"items": self.items})
        options = {**prepared.described_options, "input_only": self.input_only}
        self.fingerprint = fingerprint(self.found.model, self.items.description, options)

    def existing(self) -> Calibration | None:
        """The calibration that is there, if it is this one. Raises AlreadyExistsError if it is another."""
        try:
            there = Calibration.open(self.store)
        except NotFoundError:
            return None
        if there.fingerprint != self.fingerprint:
            raise AlreadyExistsError(f"{self.store.uri}/{RECORD_KEY}", _other(there.fingerprint, self.fingerprint))
        return there

    def measure(
        self, groups: Sequence[Sequence[str]], on_progress: Callable[[float], None]
    ) -> tuple[list[list[str]], int]:
        """Keys of the partial sums of each group, in the order of the chunks; and how many were there."""
        there = find_partials(self.store)
        prefixes = [[partial_prefix(self.fingerprint, group, *chunk) for chunk in self.chunks] for group in groups]
        jobs, sizes = [], []
        for group, of in zip(groups, prefixes, strict=True):
            for chunk, prefix in zip(self.chunks, of, strict=True):
                done = (chunk[1] - chunk[0]) / len(groups)
                if prefix in there:
                    on_progress(done)
                else:
                    jobs.append(measure_job(self.found, group, chunk, prefix, self.input_only))
                    sizes.append(done)
        shared = {
            "source": self.prepared.source,
            "digest": self.found.model,
            "items": self.items,
            "store": self.store,
            "input_only": self.input_only,
            "seed": self.prepared.options.seed,
        }
        resumed = sum(prefix in there for of in prefixes for prefix in of)
        progress = {job.key: size for job, size in zip(jobs, sizes, strict=True)}
        keys = self._all(measure, jobs, shared, lambda job: on_progress(progress[job.key]))
        there |= {job.args[-1]: key for job, key in zip(jobs, keys, strict=True)}
        return [[there[prefix] for prefix in of] for of in prefixes], resumed

    def finish(self, groups: Sequence[Sequence[str]], partials: Sequence[Sequence[str]]) -> CalibrationRecord:
        """Statistics of all weights, stored, and the record of them."""
        keys = {name: tuple(of) for group, of in zip(groups, partials, strict=True) for name in group}
        packs = pack_families(families(self.found.placements, keys))
        shared = {"predictions": self.items.predictions, "store": self.store, "input_only": self.input_only}
        finished: list[Finished] = self._all(finish, [finish_job(pack) for pack in packs], shared)
        unplaced = [Unreached(name=name, reason=reason) for name, reason in self.found.unplaced.items()]
        return CalibrationRecord(
            kind=self.prepared.source.kind,
            input_only=self.input_only,
            model=self.found.model,
            data={**self.items.description, "unit": self.items.unit, "predictions": self.items.predictions},
            options=self.prepared.described_options,
            weights=[weight for of in finished for weight in of.weights],
            unreached=[*(weight for of in finished for weight in of.unreached), *unplaced],
            objects={key: size for of in finished for key, size in of.objects.items()},
            fingerprint=self.fingerprint,
        )

    def _all(
        self,
        function: Callable[..., R],
        jobs: Sequence[Job],
        shared: dict[str, Any],
        on_done: Callable[[Job], None] = lambda job: None,
    ) -> list[R]:
        """Results in the order of the jobs, whatever order they ended in. Raises the first error."""
        done: dict[str, R] = {}
        outcomes = run_bounded(function, jobs, shared=shared, workers=self.workers)
        with closing(cast("Generator[Outcome[R]]", outcomes)):  # after a failure nobody goes on writing
            for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error
                done[outcome.job.key] = cast("R", outcome.value)
                on_done(outcome.job)
        return [done[job.key] for job in jobs]


def _clean(store: Store) -> None:
    """Remove partial sums, whichever run left them: a calibration is there, so none is wanted any more."""
    for info in list(store.list(PREFIX)):
        store.delete(info.key)


def _commit(store: Store, record: CalibrationRecord) -> bool:
    """Make the calibration exist; False if the very same one was there."""
    data = record.to_bytes()
    try:
        store.create(RECORD_KEY, data)
    except AlreadyExistsError as error:
        if store.get(RECORD_KEY) == data:
            return False
        there = Calibration.open(store).fingerprint
        raise AlreadyExistsError(error.key, _other(there, record.fingerprint)) from None
    return True


def _other(there: str, here: str) -> str:
    return (
        f"the destination holds another calibration (fingerprint {there}; this one has {here}): other weights, data or "
        "options; nothing was changed; choose another destination"
    )
