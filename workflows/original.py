"""What an artifact was made from, block by block: weights of a checkpoint that are proved to be the ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import FormatError
from nwc_workflows.inspect import TensorSummary
from nwc_workflows.sources import Checkpoint, SourceTensor, read_bytes, to_tensor

if TYPE_CHECKING:
    import torch


def original_block(row: BlockRow, source: Checkpoint, tensor: SourceTensor | None) -> torch.Tensor:
    """The elements that a block was made from, flat.

    Args:
        row: of the index.
        source: the checkpoint that the artifact is said to be made from.
        tensor: its tensor of that name; None if it has none.

    Raises:
        FormatError: the checkpoint has no such tensor, or other weights in it.
        StoreError: it cannot be read.
    """
    where = f"{block_text(row)} of the source"
    if tensor is None or tensor.shape != row.shape or tensor.dtype.name != row.dtype:
        found = f"{tensor.dtype.name} {list(tensor.shape)}" if tensor else "no such tensor"
        raise FormatError(where, found, f"{row.dtype} {list(row.shape)}")
    data = read_bytes(source, tensor, row.start, row.stop)
    if hashlib.sha256(data).digest() != row.source_sha256:
        raise FormatError(where, "other weights", "those that the artifact was made from")
    return to_tensor(data, tensor.dtype, (row.numel,))


def with_original_power(
    artifact: Artifact,
    tensors: Sequence[TensorSummary],
    source: Checkpoint,
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> list[TensorSummary]:
    """Tensors of an artifact with the mean square of the weights that those with an error were made from; no payload is read.

    Args:
        artifact: that holds them.
        tensors: of `nwc_workflows.inspect.summarise`.
        source: the checkpoint that it was made from.
        on_progress: called with coded bytes of blocks as their originals are read.

    Raises:
        FormatError: it was made from something else.
        StoreError: the checkpoint cannot be read.
    """
    import torch

    found = {tensor.name: tensor for tensor in source.tensors}
    energy = {t.name: 0.0 for t in tensors if t.mse > 0}
    for row in artifact.index:
        if row.tensor in energy:
            block = original_block(row, source, found.get(row.tensor))
            energy[row.tensor] += float(block.to(torch.float64).square().sum())
            on_progress(row.length)
    return [replace(t, power=energy[t.name] / t.numel) if t.name in energy else t for t in tensors]


def block_text(row: BlockRow) -> str:
    """Which block this is, for errors."""
    return f"tensor {row.tensor!r}, elements [{row.start}, {row.stop})"
