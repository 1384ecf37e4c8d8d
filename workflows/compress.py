"""Compressing a checkpoint: plan, code the tasks on Ray, store the payloads, commit the artifact.

Workers receive names and byte ranges, read their bytes themselves, and return one small row for each block. Objects are
written under names made from their content before the commit, so an interrupted run leaves nothing that looks finished
and the next one overwrites nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

from nwc_core.artifact.index import BlockRow, read_index, write_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Counts, Manifest, Skipped, WeightFile
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.writer import commit, existing_manifest, put_object
from nwc_core.codec import MIN_LOSSY_WEIGHTS, Codec
from nwc_core.errors import AlreadyExistsError, IntegrityError, NotFoundError, NwcError, StoreError, UsageError
from nwc_core.lossless import encode_lossless
from nwc_core.store import Store
from nwc_infra.cluster import cluster
from nwc_infra.scheduler import Job, Outcome, run_bounded
from nwc_workflows.blocks import Block, Task
from nwc_workflows.carried import Carried, check_free, describe_files, write_files
from nwc_workflows.plan import Plan
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

_LOCAL = "file://"


@dataclass(frozen=True)
class CodedTask:
    """What a worker returns: the payload that it stored and a row for each of its blocks, in order."""

    payload: ObjectRef
    rows: tuple[BlockRow, ...]


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
    """

    manifest: Manifest
    created: bool
    seconds: float
    weight_nbytes: int
    carried_nbytes: int
    source_nbytes: int

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
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> CompressResult:
    """Run a plan.

    Args:
        plan: from `make_plan`.
        destination: where the artifact goes.
        address: of a running Ray cluster; None starts a local one for the duration.
        workers: tasks at once; None for one per CPU.
        on_progress: called with source bytes that are done.

    Raises:
        UsageError: the destination lies inside the source.
        AlreadyExistsError: the destination holds a different artifact, or a file in the way; nothing was touched.
        NwcError: a task failed; its tensor is named, nothing was committed.
    """
    started = time.monotonic()
    _check_apart(plan, destination)
    existing = existing_manifest(destination)
    carried = describe_files(plan.checkpoint)
    if existing is not None:
        _check_same(plan, carried, existing, destination, on_progress)
        return _result(plan, existing, created=False, seconds=time.monotonic() - started)
    check_free(carried, destination)
    with cluster(address, workers) as ray_cluster:
        codec = put_object(
            destination, "codec", plan.codec.to_bytes()
        )  # first: a destination that refuses is known at once
        if address is None:
            _compile_kernels(plan)
        coded = _run_tasks(plan, destination, ray_cluster.workers, on_progress)
    manifest = _assemble(plan, codec, coded, carried, destination)
    created = commit(destination, manifest)
    return _result(plan, manifest, created=created, seconds=time.monotonic() - started)


def _compile_kernels(plan: Plan) -> None:
    """Code a little here first: the compiled kernels go into numba's cache, from which workers on this machine load them.

    Without it every worker of a fresh installation compiles them for itself, all at the same time.
    """
    import torch

    codec = plan.codec
    codec.decode(
        codec.encode(torch.linspace(-1, 1, MIN_LOSSY_WEIGHTS).reshape(32, -1), plan.bits, preset=plan.options.preset)
    )


def code_task(
    task: Task, bits: float, preset: str, *, checkpoint: Checkpoint, destination: Store, codec: bytes
) -> CodedTask:
    """One task, in a worker: read, code and store its blocks.

    Args:
        task: blocks to code.
        bits: per weight, for blocks that are coded lossily.
        preset: of the codec.
        checkpoint: to read from.
        destination: to store the payload in.
        codec: the codec file.
    """
    parsed = _parse_codec(codec)
    coded: list[tuple[Block, Any, bytes]] = []
    for block in task.blocks:
        source = read_bytes(checkpoint, block.tensor, block.start, block.stop)
        try:
            tensor = to_tensor(source, block.tensor.dtype, block.shape)
            encoded = parsed.encode(tensor, bits, preset=preset) if block.lossy else encode_lossless(tensor)
        except NwcError:
            raise
        except Exception as error:  # name the tensor: a worker's traceback would not
            raise NwcError(
                f"tensor {block.tensor.name!r}, block {block.number}: {type(error).__name__}: {error}"
            ) from error
        coded.append((block, encoded, hashlib.sha256(source).digest()))
    streams = [encoded.to_bytes() for _, encoded, _ in coded]
    names = [block_name(block.tensor.name, block.number) for block, _, _ in coded]
    payload = build_payload(list(zip(names, streams, strict=True)))
    ref = put_object(destination, "payload", payload.data)
    rows = tuple(
        BlockRow(
            tensor=block.tensor.name,
            dtype=block.tensor.dtype.name,
            shape=block.tensor.shape,
            file=block.tensor.file,
            start=block.start,
            stop=block.stop,
            coder=encoded.coder,
            object=ref.object,
            offset=offset,
            length=length,
            sha256=hashlib.sha256(stream).digest(),
            source_sha256=source_digest,
            side_nbytes=encoded.side_nbytes,
            mse=encoded.mse or 0.0,
        )
        for (block, encoded, source_digest), stream, (offset, length) in zip(
            coded, streams, payload.ranges, strict=True
        )
    )
    return CodedTask(ref, rows)


_parsed: dict[str, Codec] = {}  # one codec per worker process; parsing expands its tables


def _parse_codec(data: bytes) -> Codec:
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _parsed:
        _parsed.clear()
        _parsed[digest] = Codec.from_bytes(data)
    return _parsed[digest]


def _run_tasks(plan: Plan, destination: Store, workers: int, on_progress: Callable[[int], None]) -> list[CodedTask]:
    """All tasks; results in the order of the plan, whatever order they ended in."""
    jobs = [Job(task.key, (task, plan.bits, plan.options.preset), task.memory) for task in plan.tasks]
    shared = {"checkpoint": plan.checkpoint, "destination": destination, "codec": plan.codec.to_bytes()}
    done: dict[str, CodedTask] = {}
    nbytes = {task.key: task.nbytes for task in plan.tasks}
    outcomes = run_bounded(code_task, jobs, shared=shared, workers=workers)
    with closing(cast("Generator[Outcome[CodedTask]]", outcomes)):  # after a failure nobody goes on writing
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
            assert outcome.value is not None
            done[outcome.job.key] = outcome.value
            on_progress(nbytes[outcome.job.key])
    return [done[task.key] for task in plan.tasks]


def _assemble(plan: Plan, codec: ObjectRef, coded: list[CodedTask], carried: Carried, destination: Store) -> Manifest:
    """Store everything but the manifest and return that."""
    _check_unchanged(plan.checkpoint)
    rows = [row for task in coded for row in task.rows]
    payloads = [task.payload for task in coded]
    index = write_index(rows)
    write_files(carried, plan.checkpoint, destination)
    manifest = Manifest(
        codec=codec,
        index=put_object(destination, "index", index),
        payloads=payloads,
        files=list(carried.files),
        derived=list(carried.derived),
        weight_files=[WeightFile(path=f.path, size=f.size, metadata=f.metadata) for f in plan.checkpoint.weight_files],
        skipped=[Skipped(path=s.path, size=s.size, reason=s.reason) for s in plan.checkpoint.skipped],
        counts=Counts(
            tensors=len(plan.checkpoint.tensors),
            weights=plan.weights,
            blocks=len(rows),
            payload_bytes=sum(ref.size for ref in payloads),
        ),
        job=plan.job,
        fingerprint=plan.fingerprint([row.source_sha256 for row in rows], carried),
    )
    read_index(index, manifest, "the new index")  # what is committed opens: a reader refuses more than a writer does
    return manifest


def _check_apart(plan: Plan, destination: Store) -> None:
    """An artifact inside the folder of its source would be part of that checkpoint the next time. Raises UsageError."""
    source, target = _real(plan.source_uri), _real(destination.uri)
    if f"{target}/".startswith(f"{source}/") or target == _real(plan.checkpoint.store.uri):
        raise UsageError(f"destination: found {target}, inside the source {source}; wanted a folder outside of it")


def _real(uri: str) -> str:
    """A location without links and a slash at the end, so that two names of one place compare equal."""
    path = uri.removeprefix(_LOCAL)
    return os.path.realpath(path) if path != uri else uri.rstrip("/")


def _check_unchanged(checkpoint: Checkpoint) -> None:
    """Prevents a mixture of two checkpoints, where a weight file was replaced after its header had been read."""
    for file in checkpoint.weight_files:
        if checkpoint.store.version(file.path) != file.version:
            raise StoreError(
                f"{checkpoint.store.uri}/{file.path}", "was replaced while it was being read; nothing was committed"
            )


def _check_same(
    plan: Plan, carried: Carried, existing: Manifest, destination: Store, on_progress: Callable[[int], None]
) -> None:
    """Whether the artifact that is there is the one that this run would make.

    Source bytes are hashed for it, which costs a fraction of coding them: headers alone do not tell fine-tunes apart.

    Raises:
        AlreadyExistsError: it is not.
        IntegrityError: it is, but an object of it is gone or cut off.
    """
    changed = [
        f"{key}: there {existing.job.get(key)}, here {plan.job.get(key)}"
        for key in sorted({*existing.job, *plan.job})
        if existing.job.get(key) != plan.job.get(key)
    ]
    digests = []
    for block in [] if changed else plan.blocks:
        source = read_bytes(plan.checkpoint, block.tensor, block.start, block.stop)
        digests.append(hashlib.sha256(source).digest())
        on_progress(len(source))
    if changed or existing.fingerprint != plan.fingerprint(digests, carried):
        reason = "; ".join(changed) or "same options, other weights or files"
        raise AlreadyExistsError(
            f"{destination.uri}/{MANIFEST_KEY}",
            f"the destination holds a different artifact ({reason}); nothing was changed; choose another destination",
        )
    sizes = {ref.object: ref.size for ref in (existing.codec, existing.index, *existing.payloads)}
    sizes |= {file.object: file.size for file in existing.files} | {made.object: made.size for made in existing.derived}
    for key, size in sizes.items():
        try:
            found = f"{destination.size(key)} bytes"
        except NotFoundError:
            found = "nothing"
        if found != f"{size} bytes":
            wanted = f"{size} bytes; this very artifact was here but is damaged: delete it and compress again"
            raise IntegrityError(f"{destination.uri}/{key}", found, wanted)


def _result(plan: Plan, manifest: Manifest, *, created: bool, seconds: float) -> CompressResult:
    weight_nbytes = manifest.counts.payload_bytes + manifest.index.size + manifest.codec.size + len(manifest.to_bytes())
    carried = sum(file.size for file in manifest.files) + sum(file.size for file in manifest.derived)
    return CompressResult(manifest, created, seconds, weight_nbytes, carried, plan.source_nbytes)
