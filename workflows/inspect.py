"""What an artifact holds, from its manifest and index alone: no block is read, unless relative errors are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nwc_core.artifact.reader import Artifact


@dataclass(frozen=True)
class TensorSummary:
    """One tensor.

    Attributes:
        name, dtype, shape: as in the checkpoint.
        coders: how its blocks are coded.
        blocks: how many.
        nbytes: coded bytes, those left out that an earlier tensor has, too.
        side_nbytes: of the coded bytes those that are headers and side information.
        mse: mean squared error per weight.
        power: mean square of the decoded weights; None where nobody asked, or there is no error to compare with it.
        copy_of: the tensor that has all its bytes; None for others.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    coders: tuple[str, ...]
    blocks: int
    nbytes: int
    side_nbytes: int
    mse: float
    power: float | None = None
    copy_of: str | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / numel; infinite for an empty tensor."""
        return 8 * self.nbytes / self.numel if self.numel else math.inf


@dataclass(frozen=True)
class Totals:
    """Several tensors together.

    Attributes:
        tensors: how many.
        numel: their weights.
        nbytes: coded bytes.
        rms_error: root of the mean squared error per weight.
        relative_error: the same over the root of the mean square of the decoded weights, of those tensors that have an
            error; None if that is not known.
    """

    tensors: int
    numel: int
    nbytes: int
    rms_error: float
    relative_error: float | None

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / numel; infinite without weights."""
        return 8 * self.nbytes / self.numel if self.numel else math.inf


def totals(tensors: Sequence[TensorSummary]) -> Totals:
    """These tensors together."""
    numel = sum(t.numel for t in tensors)
    error = sum(t.mse * t.numel for t in tensors)
    relative = None
    lossy = [t for t in tensors if t.mse > 0]
    if lossy and all(t.power is not None for t in lossy):
        energy = sum((t.power or 0.0) * t.numel for t in lossy)
        relative = math.sqrt(error / energy) if energy > 0 else math.inf
    nbytes = sum(t.nbytes for t in tensors)
    return Totals(len(tensors), numel, nbytes, math.sqrt(error / numel) if numel else 0.0, relative)


def summarise(artifact: Artifact) -> list[TensorSummary]:
    """All tensors, in stored order."""
    out = []
    for name in artifact:
        rows = artifact.index.blocks(name)
        numel = math.prod(rows[0].shape)
        owners = [artifact.index.copy_of(row) for row in rows]
        out.append(
            TensorSummary(
                name=name,
                dtype=rows[0].dtype,
                shape=rows[0].shape,
                coders=tuple(sorted({row.coder for row in rows})),
                blocks=len(rows),
                nbytes=artifact.index.nbytes(name),
                side_nbytes=sum(row.side_nbytes for row, owner in zip(rows, owners, strict=True) if owner is None),
                mse=sum(row.mse * row.numel for row in rows) / numel if numel else 0.0,
                copy_of=owners[0] if len({*owners}) == 1 else None,
            )
        )
    return out


def with_power(
    artifact: Artifact, tensors: Sequence[TensorSummary], on_progress: Callable[[int], None] = lambda nbytes: None
) -> list[TensorSummary]:
    """The same, with the mean square of each tensor that has an error: reads and decodes all of these.

    Args:
        artifact: that holds them.
        tensors: of `summarise`.
        on_progress: called with coded bytes as they are done.

    Raises:
        IntegrityError, FormatError: a block is damaged.
    """
    import torch

    lossy = {t.name for t in tensors if t.mse > 0}
    rows = [row for row in artifact.index if row.tensor in lossy]
    energy = dict.fromkeys(lossy, 0.0)
    for row, block in zip(rows, artifact.iter_blocks(rows), strict=True):
        energy[row.tensor] += float(block.to(torch.float64).square().sum())
        on_progress(row.length if artifact.index.copy_of(row) is None else 0)
    return [replace(t, power=energy[t.name] / t.numel) if t.name in lossy else t for t in tensors]


def artifact_nbytes(artifact: Artifact) -> dict[str, int]:
    """Bytes by kind of object; together, all that the artifact occupies."""
    manifest = artifact.manifest
    return {
        "payloads": manifest.counts.payload_bytes,
        "index": manifest.index.size,
        "codec": manifest.codec.size,
        "manifest": len(manifest.to_bytes()),
        "files": sum(file.size for file in manifest.files) + sum(file.size for file in manifest.derived),
    }
