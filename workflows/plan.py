"""The plan of a compression: what is coded how, in which tasks, how large it will be. Reads headers and small tensors."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nwc_core.artifact.objects import check_key
from nwc_core.codec import PRESETS, Codec
from nwc_core.encoded import MAX_RANK
from nwc_core.errors import FormatError, UsageError
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown
from nwc_workflows.blocks import Block, Task, cut_tensor, pack_tasks
from nwc_workflows.carried import Carried
from nwc_workflows.overhead import fixed_nbytes
from nwc_workflows.sources import Checkpoint, open_checkpoint

MIN_BITS = 0.25  # of a lossy tensor; below this nothing of a model is left
MAX_BITS = 16.0  # of a lossy tensor
MAX_ELEMENTS = 1 << 48  # as in an index and a coded tensor


@dataclass(frozen=True)
class CompressOptions:
    """What determines an artifact besides the checkpoint and the codec.

    Attributes:
        bits: bits per weight over all bytes that hold weights: payloads, index, codec and manifest. There is no upper
            limit: a tiny checkpoint is mostly codec and index.
        preset: how hard the encoder searches.

    Raises:
        UsageError: an option out of its range.
    """

    bits: float = 4.5
    preset: str = "default"

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits < math.inf:
            raise UsageError(f"bits: found {self.bits}; wanted at least {MIN_BITS} bits per weight")
        if self.preset not in PRESETS:
            raise UsageError(f"preset: found {self.preset!r}; wanted one of {', '.join(PRESETS)}")
        object.__setattr__(self, "bits", float(self.bits))  # 4 and 4.0 make the same artifact


@dataclass(frozen=True)
class Plan:
    """A compression, ready to run.

    Attributes:
        source_uri: what was given as the source, file or folder.
        checkpoint: the same, opened.
        codec: the codec that every task uses.
        options: see CompressOptions.
        tasks: all work, in stored order.
        bits: bits per weight for the tensors that are coded lossily, so that the whole meets `options.bits`.
        fixed_nbytes: what all else takes, see `nwc_workflows.overhead`.
    """

    source_uri: str
    checkpoint: Checkpoint
    codec: Codec
    options: CompressOptions
    tasks: tuple[Task, ...]
    bits: float
    fixed_nbytes: int

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
        return round(lossy * self.bits / 8) + self.fixed_nbytes

    @property
    def worker_memory(self) -> int:
        """The most bytes that any worker holds at once."""
        return max((task.memory for task in self.tasks), default=0)

    @property
    def job(self) -> dict[str, Any]:
        """The options as the manifest holds them."""
        return {**asdict(self.options), "codec": self.codec.digest}

    def fingerprint(self, source_digests: list[bytes], carried: Carried) -> str:
        """SHA-256 (hex) of everything that determines the artifact: options, codec, layout and content of the source.

        Args:
            source_digests: of every block's source bytes, in stored order.
            carried: the other files.
        """
        tensors = [[t.name, t.dtype.name, list(t.shape), t.file] for t in self.checkpoint.tensors]
        files = [[f.path, f.size, f.metadata] for f in self.checkpoint.weight_files]
        others = [[file.path, file.sha256] for file in carried.files]
        described = json.dumps({"job": self.job, "tensors": tensors, "files": files, "others": others}, sort_keys=True)
        return hashlib.sha256(described.encode() + b"".join(source_digests)).hexdigest()


def make_plan(source: str | Path | Store, codec: Codec, options: CompressOptions) -> Plan:
    """Plan the compression of a checkpoint.

    Raises:
        UsageError: the rate cannot be met: what must be stored losslessly takes more than that.
        FormatError: the source holds what no artifact can: an absurd shape, a path with a backslash.
        NwcError: the source cannot be read, see `open_checkpoint`.
    """
    checkpoint = open_checkpoint(source)
    _check_holdable(checkpoint)
    tasks = tuple(pack_tasks(block for tensor in checkpoint.tensors for block in cut_tensor(tensor)))
    lossy = sum(block.numel for task in tasks for block in task.blocks if block.lossy)
    weights = sum(tensor.numel for tensor in checkpoint.tensors)
    fixed = fixed_nbytes(checkpoint, codec, tasks)
    bits = (options.bits * weights - 8 * fixed) / lossy if lossy else options.bits
    if bits < MIN_BITS:
        needed = math.ceil(100 * (MIN_BITS * lossy + 8 * fixed) / weights) / 100  # up: the figure said must do
        raise UsageError(
            f"bits: found {options.bits}; wanted at least {needed:.2f}: the codec, the "
            f"index and the tensors that are stored losslessly take {fixed:,} bytes by themselves"
        )
    return Plan(open_store(source, "source").uri, checkpoint, codec, options, tasks, min(bits, MAX_BITS), fixed)


def _check_holdable(checkpoint: Checkpoint) -> None:
    """Refuse now what the artifact's format refuses after hours of work. Raises FormatError."""
    for tensor in checkpoint.tensors:
        if len(tensor.shape) > MAX_RANK or math.prod(size for size in tensor.shape if size) > MAX_ELEMENTS:
            where = f"{checkpoint.store.uri}/{tensor.file}: tensor {shown(tensor.name)}"
            wanted = f"at most {MAX_RANK} dimensions whose product, zeros left out, is at most {MAX_ELEMENTS}"
            raise FormatError(where, f"shape {shown(list(tensor.shape))}", wanted)
    paths = [file.path for file in checkpoint.weight_files] + [info.key for info in checkpoint.other_files]
    for path in [*paths, *(skipped.path for skipped in checkpoint.skipped)]:
        try:
            check_key(f"source/{path}")
        except ValueError as error:
            raise FormatError(f"{checkpoint.store.uri}: file {shown(path)}", "this path", f"one that {error}") from None
