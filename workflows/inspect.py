"""What an artifact holds, from its manifest and index alone: no block is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nwc_core.artifact.reader import Artifact


@dataclass(frozen=True)
class TensorSummary:
    """One tensor.

    Attributes:
        name, dtype, shape: as in the checkpoint.
        coders: how its blocks are coded.
        blocks: how many.
        nbytes: coded bytes.
        side_nbytes: those of them that are headers and side information.
        mse: mean squared error per weight.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    coders: tuple[str, ...]
    blocks: int
    nbytes: int
    side_nbytes: int
    mse: float

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / numel; infinite for an empty tensor."""
        return 8 * self.nbytes / self.numel if self.numel else math.inf


def summarise(artifact: Artifact) -> list[TensorSummary]:
    """All tensors, in stored order."""
    out = []
    for name in artifact:
        rows = artifact.index.blocks(name)
        numel = math.prod(rows[0].shape)
        out.append(
            TensorSummary(
                name=name,
                dtype=rows[0].dtype,
                shape=rows[0].shape,
                coders=tuple(sorted({row.coder for row in rows})),
                blocks=len(rows),
                nbytes=sum(row.length for row in rows),
                side_nbytes=sum(row.side_nbytes for row in rows),
                mse=sum(row.mse * row.numel for row in rows) / numel if numel else 0.0,
            )
        )
    return out


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
