"""The plan of a compression: what is coded how, in which tasks, how large it will be. Reads headers and small tensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nwc_core.artifact.manifest import JobValue
from nwc_core.artifact.objects import check_key
from nwc_core.codec import PRESETS, Codec
from nwc_core.encoded import MAX_RANK
from nwc_core.errors import FormatError, UsageError
from nwc_core.near_lossless import Bound
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown
from nwc_workflows.block_statistics import shared_columns, statistics_memory
from nwc_workflows.blocks import Block, Task, cut_tensor, pack_tasks
from nwc_workflows.calibration_match import check_matches
from nwc_workflows.carried import Carried
from nwc_workflows.overhead import fixed_nbytes
from nwc_workflows.sources import Checkpoint, open_checkpoint
from nwc_workflows.targets import Target
from nwc_workflows.twins import find_alike

if TYPE_CHECKING:
    from nwc_workflows.base import BaseArtifact
    from nwc_workflows.calibration.reading import Calibration

MIN_BITS = 0.25  # of a lossy tensor; below this nothing of a model is left
MAX_BITS = 16.0  # of a lossy tensor
DEFAULT_BITS = 4.5
UNSIZED = ("lossless", "max_relative_error", "max_absolute_error")  # options that take the place of a size
MAX_ELEMENTS = 1 << 48  # as in an index and a coded tensor
_HIGHEST_MEASURED = 8  # about which rate curves are measured, bits per weight: beyond, damping no longer matters
# A size is aimed at from below: what a run gives is off by about as much, and only what is too large must be corrected.
_SIZE_MARGIN = 0.001
_DERIVED_NBYTES = 225  # by which the config.json made for transformers is larger than the checkpoint's own


@dataclass(frozen=True)
class CompressOptions:
    """What determines an artifact besides the checkpoint, the codec, and the data that errors are weighed or measured by.

    Attributes:
        bits: bits per weight over all bytes that hold weights: payloads, index, codec and manifest. There is no upper
            limit: a tiny checkpoint is mostly codec and index. With `quality`, what the search for it found. DEFAULT_BITS
            if nothing else says how large the artifact is to be. With a base, or tensors that are copies of others, the
            artifact is as good as one of so many bits without, and smaller.
        max_bytes: most bytes of the whole artifact, carried files included, instead of `bits`.
        preset: how hard the encoder searches.
        quality: the artifact is to be the smallest that meets it, instead of `bits`.
        gate: the artifact must meet it.
        lossless: all tensors are stored bit for bit, however large that makes it.
        lossless_tensors: patterns of names of tensors that are, as of a shell.
        max_relative_error: instead of a size: no float of the others is off by more of its own magnitude.
        max_absolute_error: instead of a size: no float of the others is off by more.

    Raises:
        UsageError: an option out of its range, or two that exclude each other.
    """

    bits: float | None = None
    max_bytes: int | None = None
    preset: str = "default"
    quality: Target | None = None
    gate: Target | None = None
    lossless: bool = False
    lossless_tensors: tuple[str, ...] = ()
    max_relative_error: float | None = None
    max_absolute_error: float | None = None

    def __post_init__(self) -> None:
        if self.max_relative_error is not None and not 0 < self.max_relative_error < 0.5:
            raise UsageError(f"max_relative_error: found {self.max_relative_error}; wanted above 0 and below 0.5")
        if self.max_absolute_error is not None and not 0 < self.max_absolute_error < math.inf:
            raise UsageError(f"max_absolute_error: found {self.max_absolute_error}; wanted above 0")
        if not self.sized:
            this = next(name for name in UNSIZED if getattr(self, name))
            for name in ("bits", "max_bytes", "quality", "gate", *UNSIZED):
                if name != this and getattr(self, name) not in (None, False):
                    raise UsageError(f"{this} and {name}: found both; wanted one of them")
            object.__setattr__(self, "preset", "default")  # nothing is searched: all make the same artifact
        # All of them that make the same artifact are the same.
        patterns = () if self.lossless else tuple(sorted(set(self.lossless_tensors)))
        object.__setattr__(self, "lossless_tensors", patterns)
        for one, other in (("bits", "max_bytes"), ("quality", "max_bytes"), ("quality", "gate")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UsageError(f"{one} and {other}: found both; wanted one of them")
        if self.bits is None and self.max_bytes is None and self.quality is None and self.sized:
            object.__setattr__(self, "bits", DEFAULT_BITS)
        if self.bits is not None:
            if not MIN_BITS <= self.bits < math.inf:
                raise UsageError(f"bits: found {self.bits}; wanted at least {MIN_BITS} bits per weight")
            object.__setattr__(self, "bits", float(self.bits))  # 4 and 4.0 make the same artifact
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UsageError(f"max_bytes: found {self.max_bytes}; wanted at least 1")
        if self.preset not in PRESETS:
            raise UsageError(f"preset: found {self.preset!r}; wanted one of {', '.join(PRESETS)}")

    @property
    def job(self) -> dict[str, JobValue]:
        """Those that are given, as a manifest holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value) if isinstance(value, Target) else "\n".join(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and value is not False and value != ()
        }

    def is_lossless(self, name: str) -> bool:
        """Whether a tensor is to be stored bit for bit whatever it holds."""
        return self.lossless or any(fnmatchcase(name, pattern) for pattern in self.lossless_tensors)

    @property
    def sized(self) -> bool:
        """Whether there is a size to meet, or a quality: else tensors take what they take."""
        return not any(getattr(self, name) for name in UNSIZED)

    def bound_of(self, name: str) -> Bound | None:
        """What the floats of a tensor may be off by where there is no size to meet; None for not at all."""
        if self.sized or self.is_lossless(name):
            return None
        return Bound(self.max_absolute_error, self.max_relative_error)


@dataclass(frozen=True)
class Plan:
    """A compression, ready to run.

    Attributes:
        source_uri: what was given as the source, file or folder.
        checkpoint: the same, opened.
        codec: the codec that every task uses.
        options: see CompressOptions.
        tasks: all work, in stored order.
        bits: bits per weight for the tensors that are coded lossily, so that the whole meets the options' size; as long as
            it is to be searched for, a first guess.
        fixed_nbytes: what all else takes, see `nwc_workflows.overhead`.
        calibration: what errors of which weights count; None if all count alike.
        measured_on: description of the data for `quality` or `gate`, and of a recovery, as the manifest will hold it.
        reserved_nbytes: set aside for what the artifact may grow by once it is coded, see `nwc_workflows.recovery`.
        base: what blocks are coded against where that takes less; None for nothing.
        alike: name of a tensor to that of the one that it seems to be a copy of, see `nwc_workflows.twins`.
    """

    source_uri: str
    checkpoint: Checkpoint
    codec: Codec
    options: CompressOptions
    tasks: tuple[Task, ...]
    bits: float
    fixed_nbytes: int
    calibration: Calibration | None = None
    measured_on: Mapping[str, JobValue] = field(default_factory=dict)
    reserved_nbytes: int = 0
    base: BaseArtifact | None = None
    alike: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks, in stored order."""
        place = {tensor.name: number for number, tensor in enumerate(self.checkpoint.tensors)}
        blocks = [block for task in self.tasks for block in task.blocks]
        return sorted(blocks, key=lambda block: (place[block.tensor.name], block.number))

    @cached_property
    def lossy_weights(self) -> int:
        """Elements of the blocks that are coded lossily."""
        return sum(block.numel for block in self.blocks if block.lossy)

    @cached_property
    def _own_lossy_weights(self) -> int:
        """The same without those that seem to be copies."""
        return sum(block.numel for block in self.blocks if block.lossy and block.tensor.name not in self.alike)

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
        return round(self._own_lossy_weights * self.bits / 8) + self.fixed_nbytes

    @property
    def allocates(self) -> bool:
        """Whether rates go by what the loss of the output is, or by what there is to code: else they are all the same."""
        absolute = self.calibration is not None and not self.calibration.input_only
        return (absolute or self.base is not None) and self.codec.architecture == "nwc" and self.lossy_weights > 0

    @property
    def as_good_as(self) -> bool:
        """Whether `bits` is what lossy blocks would take if each were coded alone: what a base saves makes it smaller."""
        return self.base is not None and self.options.max_bytes is None

    @cached_property
    def unmatched(self) -> tuple[str, ...]:
        """Patterns of the options' `lossless_tensors` that are no tensor's name."""
        names = [tensor.name for tensor in self.checkpoint.tensors]
        return tuple(
            pattern
            for pattern in self.options.lossless_tensors
            if not any(fnmatchcase(name, pattern) for name in names)
        )

    @cached_property
    def unreached(self) -> tuple[str, ...]:
        """Tensors with lossy blocks of which the calibration, if there is one, knows nothing."""
        known = None if self.calibration is None else set(self.calibration.names)
        names = dict.fromkeys(block.tensor.name for block in self.blocks if block.lossy)
        return tuple(name for name in names if known is not None and name not in known)

    @property
    def measured_at(self) -> float:
        """Rate about which rate curves are measured; whole, so that plans of like rates share them."""
        return float(min(max(round(self.bits), 1), _HIGHEST_MEASURED))

    @cached_property
    def _statistics_memory(self) -> Mapping[str, int]:
        return statistics_memory(self.calibration)

    def memory(self, task: Task) -> int:
        """The most bytes that a worker holds at once for a task."""
        return task.memory + max(self._statistics_memory.get(block.tensor.name, 0) for block in task.blocks)

    @property
    def worker_memory(self) -> int:
        """The most bytes that any worker holds at once."""
        return max((self.memory(task) for task in self.tasks), default=0)

    @property
    def job(self) -> dict[str, JobValue]:
        """What determines the artifact besides its source, as the manifest holds it."""
        calibration = {} if self.calibration is None else {"calibration": self.calibration.fingerprint}
        base = {} if self.base is None else {"base": self.base.manifest_sha256}
        return {**self.options.job, "codec": self.codec.digest, **calibration, **base, **self.measured_on}

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

    def with_bits(self, bits: float) -> Plan:
        """The same at `bits` per weight over all bytes that hold weights. Raises UsageError if that cannot be met."""
        return replace(self, options=replace(self.options, bits=bits)).sized()

    def overall(self, bits: float) -> float:
        """Bits per weight over all bytes that hold weights when lossy tensors are coded at `bits`."""
        return (bits * self.lossy_weights + 8 * self.fixed_nbytes) / max(1, self.weights)

    def sized(self) -> Plan:
        """The same with `bits` as the options' size asks for.

        Raises:
            UsageError: what must be stored losslessly takes more than that.
        """
        options, lossy = self.options, self.lossy_weights
        carried = 0
        if options.max_bytes is not None:
            carried = self.carried_nbytes + (_DERIVED_NBYTES if self.checkpoint.config is not None else 0)
            nbytes = (1 - _SIZE_MARGIN) * options.max_bytes - carried
            lossy = self._own_lossy_weights
        elif options.bits is not None and lossy:
            nbytes = options.bits * self.weights / 8
        else:
            return replace(self, bits=options.bits or DEFAULT_BITS)
        least = MIN_BITS * lossy / 8 + self.fixed_nbytes
        if nbytes < least:
            found, needed = f"bits: found {options.bits}", f"{_up(8 * least / max(1, self.weights)):.2f}"
            if options.max_bytes is not None:
                found, needed = (
                    f"max_bytes: found {options.max_bytes}",
                    f"{math.ceil((least + carried) / (1 - _SIZE_MARGIN))}",
                )
            also = f", and the files that are carried along {carried:,}" if carried else ""
            raise UsageError(
                f"{found}; wanted at least {needed}: the codec, the index and the tensors that are stored losslessly take "
                f"{self.fixed_nbytes:,} bytes by themselves{also}"
            )
        bits = 8 * (nbytes - self.fixed_nbytes) / lossy if lossy else DEFAULT_BITS
        return replace(self, bits=min(bits, MAX_BITS))


def make_plan(
    source: str | Path | Store,
    codec: Codec,
    options: CompressOptions,
    calibration: Calibration | None = None,
    measured_on: Mapping[str, JobValue] | None = None,
    base: BaseArtifact | None = None,
) -> Plan:
    """Plan the compression of a checkpoint.

    Args:
        source: of the checkpoint.
        codec: to use.
        options: see CompressOptions.
        calibration: of this model; None to weigh all errors alike.
        measured_on: description of the data for the options' `quality` or `gate`, and of a recovery.
        base: what blocks are coded against where that takes less.

    Raises:
        UsageError: the size cannot be met: what must be stored losslessly takes more than that.
        FormatError: the source holds what no artifact can: an absurd shape, a path with a backslash; or the calibration
            is another model's.
        NwcError: the source cannot be read, see `open_checkpoint`.
    """
    checkpoint = open_checkpoint(source)
    _check_holdable(checkpoint)
    if calibration is not None:
        check_matches(calibration, checkpoint)
    blocks = (
        block
        for tensor in checkpoint.tensors
        for block in cut_tensor(tensor, lossless=not options.sized or options.is_lossless(tensor.name))
    )
    alike = find_alike(checkpoint, () if calibration is None else calibration.names)
    tasks = tuple(pack_tasks(blocks, shared_columns(calibration), alike))
    # Bits are those that it would take without base and copies; what these save makes the artifact smaller.
    saved = (None, ()) if options.max_bytes is None and options.sized else (base, alike)
    fixed = fixed_nbytes(checkpoint, codec, tasks, *saved)
    uri = open_store(source, "source").uri
    plan = Plan(
        *(uri, checkpoint, codec, options, tasks, DEFAULT_BITS, fixed, calibration, dict(measured_on or {})),
        base=base,
        alike=alike,
    )
    return plan.sized()


def _up(bits: float) -> float:
    """To hundredths, upwards: the figure said must do."""
    return math.ceil(100 * bits) / 100


def _check_holdable(checkpoint: Checkpoint) -> None:
    """Refuse now what the artifact's format refuses after hours of work. Raises FormatError."""
    for tensor in checkpoint.tensors:
        numel = tensor.numel or math.prod(size for size in tensor.shape if size)
        if len(tensor.shape) > MAX_RANK or numel > MAX_ELEMENTS:
            where = f"{checkpoint.store.uri}/{tensor.file}: tensor {shown(tensor.name)}"
            wanted = f"at most {MAX_RANK} dimensions whose product, zeros left out, is at most {MAX_ELEMENTS}"
            raise FormatError(where, f"shape {shown(list(tensor.shape))}", wanted)
    paths = [file.path for file in checkpoint.weight_files] + [info.key for info in checkpoint.other_files]
    for path in [*paths, *(skipped.path for skipped in checkpoint.skipped)]:
        try:
            check_key(f"source/{path}")
        except ValueError as error:
            raise FormatError(f"{checkpoint.store.uri}: file {shown(path)}", "this path", f"one that {error}") from None
