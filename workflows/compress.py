"""Compressing a checkpoint: plan, code the tasks on Ray, store the payloads, commit the artifact.

Workers receive names and byte ranges, read their bytes themselves, and return one small row for each block. Objects are
written under names made from their content before the commit, so an interrupted run leaves nothing that looks finished
and the next one overwrites nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nwc_infra.cluster import cluster
from nwc_infra.scheduler import Job, run_bounded
from nwc_workflows.blocks import Block, Task
from nwc_workflows.plan import Plan
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.manifest import CarriedFile, Counts, DerivedFile, Manifest, Skipped, WeightFile
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.writer import commit, existing_manifest, put_object
from nwc_core.codec import Codec
from nwc_core.errors import AlreadyExistsError, NwcError
from nwc_core.lossless import encode_lossless
from nwc_core.store import Store

# In flight over the whole cluster; each worker's own peak is `Task.memory`.
MAX_BYTES_IN_FLIGHT = 64 << 30
# Files that transformers looks for beside config.json. Everything else goes to source/, where no name can collide.
_AT_ROOT = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab",
    "merges.txt",
)
_AT_ROOT_PREFIXES = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "sentencepiece", "spiece")
_CONFIG = "config.json"
QUANTIZATION_CONFIG = {"quant_method": "nwc", "format": "nwc-artifact", "version": 1}


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
        on_progress: called with the source bytes of each finished task.

    Raises:
        AlreadyExistsError: the destination holds a different artifact, or a file in the way; nothing was touched.
        NwcError: a task failed; its tensor is named, nothing was committed.
    """
    started = time.monotonic()
    existing = existing_manifest(destination)
    if existing is not None:
        _check_same(plan, existing, destination)
        return _result(plan, existing, created=False, seconds=time.monotonic() - started)
    with cluster(address, workers) as ray_cluster:
        coded = _run_tasks(plan, destination, ray_cluster.workers, on_progress)
    manifest = _assemble(plan, coded, destination)
    created = commit(destination, manifest)
    return _result(plan, manifest, created=created, seconds=time.monotonic() - started)


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
        tensor = to_tensor(source, block.tensor.dtype, block.shape)
        try:
            encoded = parsed.encode(tensor, bits, preset) if block.lossy else encode_lossless(tensor)
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
    for outcome in run_bounded(
        code_task, jobs, shared=shared, max_bytes_in_flight=MAX_BYTES_IN_FLIGHT, workers=workers
    ):
        if outcome.error is not None:
            raise outcome.error
        assert outcome.value is not None
        done[outcome.job.key] = outcome.value
        on_progress(nbytes[outcome.job.key])
    return [done[task.key] for task in plan.tasks]


def _assemble(plan: Plan, coded: list[CodedTask], destination: Store) -> Manifest:
    """Store everything but the manifest and return that."""
    rows = [row for task in coded for row in task.rows]
    payloads = [task.payload for task in coded]
    files, derived = _carry_files(plan.checkpoint, destination)
    return Manifest(
        codec=put_object(destination, "codec", plan.codec.to_bytes()),
        index=put_object(destination, "index", write_index(rows)),
        payloads=payloads,
        files=files,
        derived=derived,
        weight_files=[WeightFile(path=f.path, size=f.size, metadata=f.metadata) for f in plan.checkpoint.weight_files],
        skipped=[Skipped(path=s.path, size=s.size, reason=s.reason) for s in plan.checkpoint.skipped],
        counts=Counts(
            tensors=len(plan.checkpoint.tensors),
            weights=plan.weights,
            blocks=len(rows),
            payload_bytes=sum(ref.size for ref in payloads),
        ),
        job=plan.job,
        fingerprint=plan.fingerprint([row.source_sha256 for row in rows]),
    )


def _carry_files(checkpoint: Checkpoint, destination: Store) -> tuple[list[CarriedFile], list[DerivedFile]]:
    """Copy the checkpoint's other files; config.json is stored as it was and, at the root, as transformers needs it."""
    files: list[CarriedFile] = []
    derived: list[DerivedFile] = []
    for info in checkpoint.other_files:
        data = checkpoint.store.get(info.key)
        if info.key == _CONFIG and checkpoint.config is not None:
            config = (
                json.dumps({**checkpoint.config, "quantization_config": QUANTIZATION_CONFIG}, indent=2).encode() + b"\n"
            )
            _create(destination, _CONFIG, config)
            derived.append(DerivedFile(object=_CONFIG, size=len(config), sha256=hashlib.sha256(config).hexdigest()))
        key = info.key if _belongs_at_root(info.key) and info.key != _CONFIG else f"source/{info.key}"
        _create(destination, key, data)
        files.append(CarriedFile(path=info.key, object=key, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    return files, derived


def _belongs_at_root(path: str) -> bool:
    return path in _AT_ROOT or ("/" not in path and path.startswith(_AT_ROOT_PREFIXES))


def _create(store: Store, key: str, data: bytes) -> None:
    """Write a file whose name is not made from its content; equal content there already is fine, other content is not."""
    try:
        store.create(key, data)
    except AlreadyExistsError as error:
        if store.get(key) != data:
            raise AlreadyExistsError(
                error.key,
                "the destination holds another file of this name; nothing was changed; choose another destination",
            ) from None


def _check_same(plan: Plan, existing: Manifest, destination: Store) -> None:
    """Whether the artifact that is there is the one that this run would make.

    Source bytes are hashed for it, which costs a fraction of coding them: headers alone do not tell fine-tunes apart.

    Raises:
        AlreadyExistsError: it is not.
    """
    digests = [
        hashlib.sha256(read_bytes(plan.checkpoint, block.tensor, block.start, block.stop)).digest()
        for block in plan.blocks
    ]
    wanted = plan.fingerprint(digests)
    if existing.fingerprint != wanted:
        changed = sorted(key for key in {*existing.job, *plan.job} if existing.job.get(key) != plan.job.get(key))
        reason = (
            "; ".join(f"{key}: there {existing.job.get(key)}, here {plan.job.get(key)}" for key in changed)
            or "same options, other weights"
        )
        raise AlreadyExistsError(
            f"{destination.uri}/manifest.json",
            f"the destination holds a different artifact ({reason}); nothing was changed; choose another destination",
        )


def _result(plan: Plan, manifest: Manifest, *, created: bool, seconds: float) -> CompressResult:
    weight_nbytes = manifest.counts.payload_bytes + manifest.index.size + manifest.codec.size + len(manifest.to_bytes())
    carried = sum(file.size for file in manifest.files) + sum(file.size for file in manifest.derived)
    return CompressResult(manifest, created, seconds, weight_nbytes, carried, plan.source_nbytes)
