"""Compressing a checkpoint: plan, code the tasks on Ray, store the payloads, commit the artifact.

Workers receive names and byte ranges, read their bytes themselves, and return one small row for each block. Objects are
written under names made from their content before the commit, so an interrupted run leaves nothing that looks finished,
the next one overwrites nothing, and goes on where it was (see `nwc_workflows.resume`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, repeat

from nwc_core.artifact.index import read_index, write_index
from nwc_core.artifact.manifest import Base, Counts, Manifest, Skipped, WeightFile
from nwc_core.artifact.objects import ObjectRef, reference
from nwc_core.artifact.writer import commit, existing_manifest, put_object
from nwc_core.codec import MIN_LOSSY_WEIGHTS
from nwc_core.encoded import LOSSY_CODERS, WITH_BASE
from nwc_core.errors import NwcError, StoreError, UsageError
from nwc_core.lossless import encode_lossless
from nwc_core.store import Store
from nwc_infra.capacity import Capacity
from nwc_infra.cluster import cluster
from nwc_workflows.allocate import Allocation, Measured, allocate
from nwc_workflows.blocks import Task
from nwc_workflows.carried import Carried, check_free, describe_files, write_files
from nwc_workflows.coding import CodedTask
from nwc_workflows.destination import check_apart, check_same, check_unchanged
from nwc_workflows.fitting import ROUNDS, TaskSize, corrected, fits
from nwc_workflows.plan import MIN_BITS, Plan
from nwc_workflows.resume import begin, clear, clear_if_begun
from nwc_workflows.tasks import Tasks
from nwc_workflows.timeline import TaskSpan

Advance = Callable[[int], None]


def _ignore(nbytes: int) -> None:
    pass


@dataclass(frozen=True)
class CompressResult:
    """A finished compression.

    Attributes:
        manifest: of the artifact.
        created: False if the very same artifact was there already and nothing had to be done.
        seconds: wall time of coding, storing and committing.
        weight_nbytes: bytes of the objects that hold weights: payloads, index, codec, manifest.
        carried_nbytes: bytes of the files carried along.
        source_nbytes: bytes of the source's weight files.
        lossy_bits: bits per weight that the tensors coded lossily were to get.
        allocation: how rates were allocated; None if all blocks were to get the same, or nothing was done.
        timeline: of all tasks that ran, those of earlier runs too that this one found done.
    """

    manifest: Manifest
    created: bool
    seconds: float
    weight_nbytes: int
    carried_nbytes: int
    source_nbytes: int
    lossy_bits: float
    allocation: Allocation | None = None
    timeline: tuple[TaskSpan, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Over `weight_nbytes` and all elements."""
        return 8 * self.weight_nbytes / max(1, self.manifest.counts.weights)


def compress(
    plan: Plan,
    destination: Store,
    *,
    address: str | None = None,
    workers: int | None = None,
    capacity: Capacity | None = None,
    on_progress: Advance = _ignore,
    measured: Sequence[Measured] | None = None,
) -> CompressResult:
    """Run a plan whose size is known. Its quality or gate is only noted: see `nwc_workflows.trials`.

    Args:
        plan: from `make_plan`.
        destination: where the artifact goes.
        address: of a running Ray cluster; None starts a local one for the duration.
        workers: tasks at once; None for one per CPU.
        capacity: shared with other compressions of this process, on a Ray that it is connected to.
        on_progress: called with bytes that are done, `work(plan)` in all; with source bytes if only those are compared.
        measured: from `measure`; if None, a plan that allocates measures here.

    Raises:
        UsageError: the destination lies inside the source.
        AlreadyExistsError: the destination holds a different artifact, the beginning of one, or a file in the way; nothing
            was touched.
        NwcError: a task failed; its tensor is named, nothing was committed. Or `max_bytes` could not be met.
    """
    started = time.monotonic()
    carried = _carried_or_finished(plan, destination, on_progress)
    if isinstance(carried, CompressResult):
        return carried
    with cluster(address, workers) as ray_cluster:
        # First: a destination that refuses is known at once.
        begun = begin(plan, destination)
        codec = put_object(destination, "codec", plan.codec.to_bytes())
        tasks = Tasks(plan, destination, begun, ray_cluster.workers, capacity)
        if address is None:
            _compile_kernels(plan)
        if plan.allocates and measured is None:
            measured = _measure(tasks, on_progress)
        allocation = None if measured is None else allocate(measured, plan.bits, as_good_as=plan.as_good_as)
        coding = _Coding(plan, codec, carried, tasks)
        made, superseded = coding.fitting(_by_task(plan, allocation), on_progress)
    _store(made, plan, carried, destination)
    created = commit(destination, made.manifest)
    for key in superseded:  # only now: whoever raced us to the commit might have been using them
        destination.delete(key)
    clear(destination)
    seconds = time.monotonic() - started
    timeline = tuple(sorted(tasks.spans, key=lambda span: span.started))
    return _result(plan, made.manifest, created=created, seconds=seconds, allocation=allocation, timeline=timeline)


def find_finished(plan: Plan, destination: Store, on_progress: Advance = _ignore) -> CompressResult | None:
    """The artifact of a plan if it is there already, or None if the destination is free for it.

    Raises:
        UsageError, AlreadyExistsError, IntegrityError: see `compress`.
    """
    found = _carried_or_finished(plan, destination, on_progress)
    return found if isinstance(found, CompressResult) else None


def _carried_or_finished(plan: Plan, destination: Store, on_progress: Advance) -> Carried | CompressResult:
    started = time.monotonic()
    check_apart(plan, destination)
    existing = existing_manifest(destination)
    carried = describe_files(plan.checkpoint)
    if existing is None:
        check_free(carried, destination)
        return carried
    bits = existing.job.get("bits")
    if plan.options.quality is not None and plan.options.bits is None and isinstance(bits, float) and bits >= MIN_BITS:
        with suppress(UsageError):  # too few for this model: that is another artifact, as will be said
            plan = plan.with_bits(bits)  # what the search found is part of the artifact
    check_same(plan, carried, existing, destination, on_progress)
    clear_if_begun(destination)  # by a run that was stopped just behind its commit
    return _result(plan, existing, created=False, seconds=time.monotonic() - started)


def work(plan: Plan) -> int:
    """Bytes of progress that compressing takes: of the source, and once more if they are measured first."""
    return (2 if plan.allocates else 1) * sum(task.nbytes for task in plan.tasks)


def measure(
    plan: Plan, *, address: str | None = None, workers: int | None = None, on_progress: Advance = _ignore
) -> list[Measured]:
    """What `allocate` needs to know of every lossy block, for a plan that allocates.

    Args:
        plan: from `make_plan`.
        address, workers: as for `compress`.
        on_progress: called with source bytes that are done.

    Raises:
        NwcError: a task failed; its tensor is named.
    """
    with cluster(address, workers) as ray_cluster:
        if address is None:
            _compile_kernels(plan)
        return _measure(Tasks(plan, None, None, ray_cluster.workers), on_progress)


def _measure(tasks: Tasks, on_progress: Advance) -> list[Measured]:
    count = len(tasks.plan.tasks)
    found = tasks.run("measure", dict.fromkeys(range(count), (tasks.plan.measured_at,)), on_progress)
    return [block for index in range(count) for block in found[index]]


def _by_task(plan: Plan, allocation: Allocation | None) -> list[tuple[float, ...]]:
    """Rates of the lossy blocks of each task."""
    counts = [sum(block.lossy for block in task.blocks) for task in plan.tasks]
    rates = iter(repeat(plan.bits) if allocation is None else allocation.rates)
    return [tuple(islice(rates, count)) for count in counts]


_compiled: set[tuple[str, bool, bool, bool]] = set()


def _compile_kernels(plan: Plan) -> None:
    """Code a little here first: the compiled kernels go into numba's cache, from which workers on this machine load them.

    Without it every worker of a fresh installation compiles them for itself, all at the same time.
    """
    import torch

    options = plan.options
    kernels = (options.preset, plan.calibration is not None, options.sized, options.max_absolute_error is not None)
    if kernels in _compiled:
        return
    _compiled.add(kernels)
    codec, weight = plan.codec, torch.linspace(-1, 1, MIN_LOSSY_WEIGHTS).reshape(32, -1)
    for dtype in {block.tensor.dtype for block in plan.blocks if not block.lossy}:
        codec.decode(encode_lossless(weight.to(dtype.torch)))
    if plan.options.max_absolute_error is not None:
        codec.decode(codec.encode_nearest(weight, 0.01))
    if not plan.options.sized:
        return
    columns = weight.shape[1]
    for hessian in (None,) if plan.calibration is None else (None, torch.eye(columns)):
        codec.decode(codec.encode(weight, plan.bits, preset=plan.options.preset, hessian=hessian))


@dataclass(frozen=True)
class _Made:
    """An artifact whose payloads are stored, and nothing else of it."""

    manifest: Manifest
    index: bytes

    @property
    def nbytes(self) -> int:
        return weight_nbytes(self.manifest) + _carried_nbytes(self.manifest)


@dataclass(frozen=True)
class _Coding:
    """Coding the tasks of a plan, until the artifact has the size that was asked for."""

    plan: Plan
    codec: ObjectRef
    carried: Carried
    tasks: Tasks

    def fitting(self, rates: list[tuple[float, ...]], on_progress: Advance) -> tuple[_Made, set[str]]:
        """The artifact, and keys of payloads that were stored on the way to it but are no part of it.

        Raises:
            NwcError: even the smallest is larger than `max_bytes`.
        """
        rates, asked = list(rates), self.plan.options.max_bytes
        limit = None if asked is None else asked - self.plan.reserved_nbytes
        coded = self._code(dict(enumerate(rates)), on_progress)
        tried = [self._describe(coded)]
        for _ in range(0 if limit is None else ROUNDS):
            assert limit is not None
            sizes = [_task_size(task, coded[i], rates[i]) for i, task in enumerate(self.plan.tasks)]
            again = {} if fits(tried[-1].nbytes, limit) else corrected(sizes, tried[-1].nbytes, limit)
            if not again:
                break
            for index, changed in again.items():
                rates[index] = changed
            coded = {**coded, **self._code(again, _ignore)}
            tried.append(self._describe(coded))
        fitting = [made for made in tried if limit is None or made.nbytes <= limit]
        if not fitting:
            smallest = min(made.nbytes for made in tried)
            room = f", and {self.plan.reserved_nbytes} that recovery may add" if self.plan.reserved_nbytes else ""
            raise NwcError(
                f"max_bytes: found an artifact of {smallest} bytes at the least{room}; wanted at most {asked}"
            )
        best = max(fitting, key=lambda made: made.nbytes)
        stored = {ref.object for made in tried for ref in made.manifest.payloads}
        return best, stored - {ref.object for ref in best.manifest.payloads}

    def _code(self, rates: Mapping[int, tuple[float, ...]], on_progress: Advance) -> dict[int, CodedTask]:
        preset = self.plan.options.preset
        return self.tasks.run("code", {index: (of, preset) for index, of in rates.items()}, on_progress)

    def _describe(self, coded: Mapping[int, CodedTask]) -> _Made:
        plan = self.plan
        in_order = [coded[index] for index in range(len(plan.tasks))]
        place = {tensor.name: number for number, tensor in enumerate(plan.checkpoint.tensors)}
        rows = sorted((row for task in in_order for row in task.rows), key=lambda row: (place[row.tensor], row.start))
        payloads = [task.payload for task in in_order]
        index = write_index(rows)
        manifest = Manifest(
            codec=self.codec,
            index=reference("index", index),
            payloads=payloads,
            files=list(self.carried.files),
            derived=list(self.carried.derived),
            weight_files=[
                WeightFile(path=f.path, size=f.size, metadata=f.metadata) for f in plan.checkpoint.weight_files
            ],
            skipped=[Skipped(path=s.path, size=s.size, reason=s.reason) for s in plan.checkpoint.skipped],
            counts=Counts(
                tensors=len(plan.checkpoint.tensors),
                weights=plan.weights,
                blocks=len(rows),
                payload_bytes=sum(ref.size for ref in payloads),
            ),
            job=plan.job,
            fingerprint=plan.fingerprint([row.source_sha256 for row in rows], self.carried),
            base=self._base() if any(row.coder in WITH_BASE for row in rows) else None,
        )
        return _Made(manifest, index)

    def _base(self) -> Base | None:
        base, destination = self.tasks.plan.base, self.tasks.destination
        return None if base is None or destination is None else base.seen_from(destination)


def _task_size(task: Task, coded: CodedTask, rates: tuple[float, ...]) -> TaskSize:
    numels, seen = [], set()
    for block, row in zip(task.blocks, coded.rows, strict=True):
        if block.lossy:
            numels.append(row.numel if row.coder in LOSSY_CODERS and row.offset not in seen else 0)
        seen.add(row.offset)  # which a copy has, too
    return TaskSize(rates, tuple(numels))


def _store(made: _Made, plan: Plan, carried: Carried, destination: Store) -> None:
    """Everything but the manifest. Raises StoreError if a payload that was stored is there no more."""
    check_unchanged(plan.checkpoint)
    there = {info.key: info.size for info in destination.list("payload-")}
    for ref in made.manifest.payloads:
        if there.get(ref.object) != ref.size:
            found = "is gone" if ref.object not in there else f"has {there[ref.object]} bytes instead of {ref.size}"
            raise StoreError(
                f"{destination.uri}/{ref.object}",
                f"{found}: somebody deleted or changed it; run the same command again",
            )
    write_files(carried, plan.checkpoint, destination)
    put_object(destination, "index", made.index)
    # What is committed opens: a reader refuses more than a writer does.
    read_index(made.index, made.manifest, "the new index")


def weight_nbytes(manifest: Manifest) -> int:
    """Bytes of the objects that hold weights: payloads, index, codec, manifest."""
    return manifest.counts.payload_bytes + manifest.index.size + manifest.codec.size + len(manifest.to_bytes())


def _carried_nbytes(manifest: Manifest) -> int:
    return sum(file.size for file in manifest.files) + sum(made.size for made in manifest.derived)


def _result(
    plan: Plan,
    manifest: Manifest,
    *,
    created: bool,
    seconds: float,
    allocation: Allocation | None = None,
    timeline: tuple[TaskSpan, ...] = (),
) -> CompressResult:
    sizes = weight_nbytes(manifest), _carried_nbytes(manifest)
    return CompressResult(manifest, created, seconds, *sizes, plan.source_nbytes, plan.bits, allocation, timeline)
