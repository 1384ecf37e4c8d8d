"""The plan of a compression: what is coded how, in which tasks, and how large it will be. Reads headers, no weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic
from nwc_workflows.blocks import Block, Task, cut_tensor, pack_tasks
from nwc_workflows.sources import Checkpoint, open_checkpoint

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.objects import name_from_digest
from nwc_core.codec import PRESETS, Codec
from nwc_core.errors import UsageError
from nwc_core.store import Store

MIN_BITS = 0.25  # of a lossy tensor; below this nothing of a model is left
MAX_BITS = 16.0
_PAYLOAD_HEADER = 130  # bytes of a payload's header for each block
_MANIFEST = (1500, 220)  # bytes of a manifest: fixed, and for each payload, file or weight file


class CompressOptions(pydantic.BaseModel):
    """What determines an artifact besides the checkpoint and the codec.

    Attributes:
        bits: bits per weight over all bytes that hold weights: payloads, index, codec and manifest.
        preset: how hard the encoder searches.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    bits: float = 4.5
    preset: str = "default"

    @pydantic.model_validator(mode="after")
    def _check(self) -> CompressOptions:
        # Not pydantic's own constraints: a user is to read our words, wherever the options came from.
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise UsageError(f"bits: found {self.bits}; wanted {MIN_BITS} to {MAX_BITS} bits per weight")
        if self.preset not in PRESETS:
            raise UsageError(f"preset: found {self.preset!r}; wanted one of {', '.join(PRESETS)}")
        return self


@dataclass(frozen=True)
class Plan:
    """A compression, ready to run.

    Attributes:
        checkpoint: the source.
        codec: the codec that every task uses.
        options: see CompressOptions.
        tasks: all work, in stored order.
        bits: bits per weight for the tensors that are coded lossily, so that the whole meets `options.bits`.
    """

    checkpoint: Checkpoint
    codec: Codec
    options: CompressOptions
    tasks: tuple[Task, ...]
    bits: float

    @cached_property
    def blocks(self) -> list[Block]:
        return [block for task in self.tasks for block in task.blocks]

    @property
    def weights(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel for tensor in self.checkpoint.tensors)

    @property
    def source_nbytes(self) -> int:
        """Size of the weight files."""
        return sum(file.size for file in self.checkpoint.weight_files)

    @property
    def carried_nbytes(self) -> int:
        """Size of the files carried byte for byte."""
        return sum(file.size for file in self.checkpoint.other_files)

    @property
    def predicted_nbytes(self) -> int:
        """Predicted size of payloads, index, codec and manifest."""
        lossy = sum(block.numel for block in self.blocks if block.lossy)
        return round(lossy * self.bits / 8) + _fixed_nbytes(self.checkpoint, self.codec, self.tasks)

    @property
    def worker_memory(self) -> int:
        """The most bytes that any worker holds at once."""
        return max((task.memory for task in self.tasks), default=0)

    @property
    def job(self) -> dict[str, Any]:
        """The options as the manifest holds them."""
        return {**self.options.model_dump(), "codec": self.codec.digest}

    def fingerprint(self, source_digests: list[bytes]) -> str:
        """SHA-256 (hex) of everything that determines the artifact: options, codec, layout and content of the source.

        Args:
            source_digests: of every block's source bytes, in stored order.
        """
        tensors = [[t.name, t.dtype.name, list(t.shape), t.file] for t in self.checkpoint.tensors]
        files = [[f.path, f.size, f.metadata] for f in self.checkpoint.weight_files]
        described = json.dumps({"job": self.job, "tensors": tensors, "files": files}, sort_keys=True)
        return hashlib.sha256(described.encode() + b"".join(source_digests)).hexdigest()


def make_plan(source: str | Path | Store, codec: Codec, options: CompressOptions) -> Plan:
    """Plan the compression of a checkpoint.

    Raises:
        UsageError: the rate cannot be met: what must be stored losslessly takes more than that.
        NwcError: the source cannot be read, see `open_checkpoint`.
    """
    checkpoint = open_checkpoint(source)
    tasks = tuple(pack_tasks(block for tensor in checkpoint.tensors for block in cut_tensor(tensor)))
    lossy = sum(block.numel for task in tasks for block in task.blocks if block.lossy)
    weights = sum(tensor.numel for tensor in checkpoint.tensors)
    fixed = _fixed_nbytes(checkpoint, codec, tasks)
    bits = (options.bits * weights - 8 * fixed) / lossy if lossy else options.bits
    if bits < MIN_BITS:
        raise UsageError(
            f"bits: found {options.bits}; wanted at least {(MIN_BITS * lossy + 8 * fixed) / weights:.2f}: the codec, the "
            f"index and the tensors that are stored losslessly take {fixed:,} bytes by themselves"
        )
    return Plan(checkpoint, codec, options, tasks, min(bits, MAX_BITS))


def _fixed_nbytes(checkpoint: Checkpoint, codec: Codec, tasks: tuple[Task, ...]) -> int:
    """Bytes that do not depend on the rate: lossless tensors (as if incompressible), index, codec, headers, manifest."""
    blocks = [block for task in tasks for block in task.blocks]
    lossless = sum(block.nbytes for block in blocks if not block.lossy)
    fixed, each = _MANIFEST
    named = len(tasks) + len(checkpoint.other_files) + len(checkpoint.weight_files)
    return (
        lossless
        + len(write_index([_stand_in(block) for block in blocks]))
        + len(codec.to_bytes())
        + _PAYLOAD_HEADER * len(blocks)
        + fixed
        + each * named
    )


def _stand_in(block: Block) -> BlockRow:
    """A row of the size that the real one will have: digests do not compress."""
    digest = hashlib.sha256(f"{block.tensor.name}#{block.number}".encode()).digest()
    return BlockRow(
        tensor=block.tensor.name,
        dtype=block.tensor.dtype.name,
        shape=block.tensor.shape,
        file=block.tensor.file,
        start=block.start,
        stop=block.stop,
        coder="nwc",
        object=name_from_digest("payload", digest.hex()),
        offset=block.tensor.start,
        length=block.nbytes,
        sha256=digest,
        source_sha256=hashlib.sha256(digest).digest(),
        side_nbytes=block.numel % 4096,
        mse=float(digest[0]) / 7,
    )
