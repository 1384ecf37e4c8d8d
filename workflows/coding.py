"""What workers do with a task: code its blocks and store them, or measure what rate each takes at a given price of error.

They receive names, byte ranges and rates, read the bytes and the statistics themselves, and return small rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.writer import put_object
from nwc_core.codec import Codec
from nwc_core.delta import difference
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import NwcError, UsageError
from nwc_core.lossless import encode_lossless
from nwc_core.near_lossless import Bound
from nwc_core.store import Store
from nwc_workflows.allocate import Lossless, Measured, Unreached
from nwc_workflows.base import BaseArtifact, encode_lossy, encode_within
from nwc_workflows.block_statistics import read_statistics
from nwc_workflows.blocks import Block, Task
from nwc_workflows.sources import Checkpoint, read_bytes, to_tensor
from nwc_workflows.timeline import stage
from nwc_workflows.twins import Copies

if TYPE_CHECKING:
    from nwc_workflows.calibration.reading import Calibration
    from nwc_workflows.plan import CompressOptions


@dataclass(frozen=True)
class CodedTask:
    """What a worker returns: the payload that it stored and a row for each of its blocks, in order; copies have one range."""

    payload: ObjectRef
    rows: tuple[BlockRow, ...]


def code_task(
    task: Task,
    rates: Sequence[float],
    preset: str,
    *,
    checkpoint: Checkpoint,
    destination: Store,
    codec: bytes,
    calibration: Calibration | None,
    base: BaseArtifact | None = None,
    options: CompressOptions | None = None,
) -> CodedTask:
    """Read, code and store the blocks of a task.

    Args:
        task: blocks to code.
        rates: bits per weight of each block that is coded lossily, in order.
        preset: of the codec.
        checkpoint: to read from.
        destination: to store the payload in.
        codec: the codec file.
        calibration: where the blocks' statistics are; None to weigh all errors alike.
        base: what blocks are coded against where that takes less.
        options: say which tensors may be off by how much; None for those that are coded lossily alone.
    """
    coded = code_blocks(
        task, rates, preset, checkpoint=checkpoint, codec=codec, calibration=calibration, base=base, options=options
    )
    streams: list[tuple[str, bytes]] = []
    places: list[int] = []  # of each block, among the streams
    for one in coded:
        if one.copy_of is None:
            streams.append((block_name(one.block.tensor.name, one.block.number), one.encoded.to_bytes()))
        places.append(len(streams) - 1 if one.copy_of is None else places[one.copy_of])
    payload = build_payload(streams)
    with stage("write"):
        ref = put_object(destination, "payload", payload.data)
    rows = tuple(
        BlockRow(
            tensor=one.block.tensor.name,
            dtype=one.block.tensor.dtype.name,
            shape=one.block.tensor.shape,
            file=one.block.tensor.file,
            start=one.block.start,
            stop=one.block.stop,
            coder=one.encoded.coder,
            object=ref.object,
            offset=payload.ranges[place][0],
            length=payload.ranges[place][1],
            sha256=hashlib.sha256(streams[place][1]).digest(),
            source_sha256=one.source_sha256,
            side_nbytes=one.encoded.side_nbytes,
            mse=one.encoded.mse or 0.0,
        )
        for one, place in zip(coded, places, strict=True)
    )
    return CodedTask(ref, rows)


@dataclass(frozen=True)
class CodedBlock:
    """A block, coded.

    Attributes:
        block: which.
        encoded: what it is coded to.
        source_sha256: digest of its source bytes.
        copy_of: position in the task of the block that it is a copy of, if one of them was coded already.
    """

    block: Block
    encoded: EncodedTensor
    source_sha256: bytes
    copy_of: int | None = None


def code_blocks(
    task: Task,
    rates: Sequence[float],
    preset: str,
    *,
    checkpoint: Checkpoint,
    codec: bytes,
    calibration: Calibration | None,
    base: BaseArtifact | None = None,
    options: CompressOptions | None = None,
) -> list[CodedBlock]:
    """Read and code the blocks of a task, in order. Arguments as for `code_task`."""
    parsed = _parse_codec(codec)
    remaining = iter(rates)
    coded: list[CodedBlock] = []
    copies = Copies(base)
    for block in task.blocks:
        with _naming(block), stage("read"):
            source = read_bytes(checkpoint, block.tensor, block.start, block.stop)
            statistics = read_statistics(calibration, block) if block.lossy else None
            digest = hashlib.sha256(source).digest()
            rate = next(remaining) if block.lossy else None
            bound = _bound(options, block)
            first = copies.find(block, digest, bound) if statistics is None else None
            if first is not None:
                coded.append(CodedBlock(block, coded[first].encoded, digest, first))
                continue
            copies.add(len(coded), block, digest, bound)
            encoded = None if base is None else base.copy(block, digest, exact=not block.lossy)
            others = None if base is None or encoded is not None else base.elements(block)
        with _naming(block), stage("code"):
            if encoded is None:
                tensor = to_tensor(source, block.tensor.dtype, block.shape)
                weighing = statistics.arguments() if statistics else {}
                if rate is not None:
                    encoded = encode_lossy(parsed, tensor, rate, others, preset=preset, **weighing)
                else:
                    encoded = encode_within(parsed, tensor, bound, others)
            coded.append(CodedBlock(block, encoded, digest))
    return coded


def _bound(options: CompressOptions | None, block: Block) -> Bound | None:
    return None if options is None else options.bound_of(block.tensor.name)


def measure_task(
    task: Task,
    bits: float,
    *,
    checkpoint: Checkpoint,
    codec: bytes,
    calibration: Calibration | None,
    base: BaseArtifact | None = None,
) -> tuple[Measured, ...]:
    """The rate curve of each block of a task that is coded lossily, in order.

    Args:
        task: blocks to measure.
        bits: about which the blocks will be coded.
        checkpoint: to read from.
        codec: the codec file.
        calibration: where the blocks' statistics are. Without one, errors count as alike as they do when each block is
            coded alone at the same rate.
        base: what blocks are coded against where that takes less.
    """
    parsed = _parse_codec(codec)
    found: list[Measured] = []
    copies = Copies(base)
    for block in task.blocks:
        if not block.lossy:
            continue
        with _naming(block), stage("read"):
            source = read_bytes(checkpoint, block.tensor, block.start, block.stop)
            statistics = read_statistics(calibration, block)
            digest = hashlib.sha256(source).digest()
            if statistics is None and copies.find(block, digest) is not None:
                found.append(Lossless(0, 0))  # nothing of the budget is for it, or goes to it
                continue
            copies.add(len(found), block, digest)
            copied = None if base is None else base.copy(block, digest, exact=False)
            others = None if base is None or copied is not None else base.elements(block)
        with _naming(block), stage("code"):
            if copied is not None:
                found.append(Lossless(block.numel, copied.nbytes))
                continue
            tensor = to_tensor(source, block.tensor.dtype, block.shape)
            weighing = statistics.arguments() if statistics else {}
            alone = parsed.rate_curve(tensor, bits=bits, **weighing)
            apart = None if others is None else difference(tensor, others)
            curve = alone if apart is None else parsed.rate_curve(apart, bits=bits, **weighing)
            if curve is not None and alone is not None and apart is not None:
                curve = replace(curve, alone=alone.log2_theta)
            if alone is None or curve is None:
                found.append(Lossless(block.numel, encode_lossless(tensor).nbytes))
            elif statistics and statistics.rows is not None:
                found.append(curve)
            elif base is None:
                found.append(Unreached(block.numel))
            else:
                found.append(curve.less(alone.log2_theta_at(bits)))
    return tuple(found)


@contextmanager
def _naming(block: Block) -> Iterator[None]:
    """Errors that name the tensor: a worker's traceback would not."""
    try:
        yield
    except UsageError as error:  # the codec's, which knows no names
        raise UsageError(f"tensor {block.tensor.name!r}, block {block.number}: {error}") from error
    except NwcError:
        raise
    except Exception as error:
        raise NwcError(
            f"tensor {block.tensor.name!r}, block {block.number}: {type(error).__name__}: {error}"
        ) from error


_parsed: dict[str, Codec] = {}  # one codec per worker process; parsing expands its tables


def _parse_codec(data: bytes) -> Codec:
    digest = hashlib.sha256(data).hexdigest()
    if digest not in _parsed:
        _parsed.clear()
        _parsed[digest] = Codec.from_bytes(data)
    return _parsed[digest]
