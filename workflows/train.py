"""Training a codec on checkpoints: sources in, a codec file with its provenance out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nwc_core.codec import Codec
from nwc_core.errors import UsageError
from nwc_core.training.dataset import WeightDataset, build_dataset
from nwc_core.training.loop import Progress, Trainer, TrainingConfig
from nwc_core.training.reference import ReferenceConfig, ReferenceTrainer
from nwc_workflows.sources import Checkpoint, open_checkpoint, read_bytes, to_tensor

_CHUNK = 1 << 24


@dataclass(frozen=True)
class TrainingSource:
    """A checkpoint to learn from.

    Attributes:
        name: how the provenance names it; no path of this machine.
        checkpoint: opened.
        sha256: of its weight files, in order.
    """

    name: str
    checkpoint: Checkpoint
    sha256: str


def find_sources(paths: list[str]) -> list[TrainingSource]:
    """Open checkpoints; a folder that is none itself stands for all checkpoints below it.

    Names are the path below what was given, or its last part.

    Raises:
        UsageError: nothing was given, or two sources have one name.
        NwcError: a source cannot be read, see `open_checkpoint`.
    """
    found: list[TrainingSource] = []
    for path in paths:
        root = Path(path)
        inner = [] if "://" in path or _is_checkpoint(root) else sorted(_checkpoints_below(root))
        for folder in inner or [root]:
            name = str(folder.relative_to(root)) if inner else root.name
            checkpoint = open_checkpoint(path if "://" in path else folder)
            found.append(TrainingSource(name, checkpoint, _digest(checkpoint)))
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"sources: found two named {name!r}; wanted different names: give their common parent folder"
            )
    if not found:
        raise UsageError("sources: found none; wanted at least one checkpoint")
    return found


def load_dataset(sources: list[TrainingSource], held_out: float, seed: int) -> WeightDataset:
    """All matrices of the sources, in memory."""
    return build_dataset(_tensors(sources), held_out, seed)


def train(
    sources: list[TrainingSource], config: TrainingConfig | ReferenceConfig, work: Path | None, progress: Progress
) -> Codec:
    """Train a codec of the architecture that the configuration is for, saving to and resuming from `work` if given."""
    torch.set_num_threads(1)  # sums split over threads would make the codec depend on their number
    described = [{"name": source.name, "sha256": source.sha256} for source in sources]
    dataset = load_dataset(sources, config.held_out, config.seed)
    if isinstance(config, ReferenceConfig):
        return ReferenceTrainer(dataset, config, described, work, progress).run()
    return Trainer(dataset, config, described, work, progress).run()


def _tensors(sources: list[TrainingSource]) -> Iterator[tuple[str, torch.Tensor]]:
    for source in sources:
        for tensor in source.checkpoint.tensors:
            if tensor.dtype.lossy:
                yield (
                    f"{source.name}/{tensor.name}",
                    to_tensor(read_bytes(source.checkpoint, tensor), tensor.dtype, tensor.shape),
                )


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_file() or any(folder.glob("*.safetensors"))


def _checkpoints_below(folder: Path) -> set[Path]:
    return {file.parent for file in folder.rglob("*.safetensors")}


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for file in checkpoint.weight_files:
        for start in range(0, file.size, _CHUNK):
            digest.update(checkpoint.store.get_range(file.path, start, min(start + _CHUNK, file.size)))
    return digest.hexdigest()
