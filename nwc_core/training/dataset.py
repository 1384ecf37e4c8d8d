"""A dataset of weights: matrices from real checkpoints, split into training and held-out ones by tensor.

Every tensor that the lossy coder would touch becomes matrices by the layout that the encoder would use, so that training
sees what encoding sees. Splitting by tensor, not by chunk: rows of one tensor are too alike to test on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.codec import lossy_candidate
from nwc_core.dtypes import from_torch
from nwc_core.errors import UsageError
from nwc_core.matrices import default_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WeightMatrix:
    """One matrix of the dataset.

    Attributes:
        name: "source/tensor", and the number of the matrix where a tensor holds several.
        values: [m, n] float32.
        taps: columns that belong to one convolution kernel, 1 where there is none.
    """

    name: str
    values: npt.NDArray[np.float32]
    taps: int

    def sample(self, weights: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Random whole rows, about `weights` weights in all, at least one row."""
        m, n = self.values.shape
        rows = min(m, max(1, weights // n))
        return self.values if rows == m else self.values[np.sort(rng.choice(m, rows, replace=False))]


@dataclass(frozen=True)
class WeightDataset:
    """Matrices to train on and matrices held out."""

    train: list[WeightMatrix]
    held_out: list[WeightMatrix]


def build_dataset(tensors: Iterable[tuple[str, torch.Tensor]], held_out_share: float, seed: int) -> WeightDataset:
    """Collect matrices from (name, tensor) pairs.

    A tensor is held out if the hash of seed and name falls below the share: adding a source moves no other tensor.

    Raises:
        UsageError: nothing to train on is left.
    """
    train: list[WeightMatrix] = []
    held_out: list[WeightMatrix] = []
    for name, tensor in tensors:
        shape = tuple(tensor.shape)
        if not lossy_candidate(from_torch(tensor.dtype).name, shape):
            continue
        layout = default_layout(shape)
        # A copy of our own: the matrices must not keep alive, or change with, whatever the tensor is a view of.
        matrices = layout.to_matrices(tensor.float().numpy()).astype(np.float32)
        draw = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64
        target = held_out if draw < held_out_share else train
        for index, matrix in enumerate(matrices):
            if matrix.any() and np.isfinite(matrix).all():
                label = name if len(matrices) == 1 else f"{name}[{index}]"
                target.append(WeightMatrix(label, matrix, layout.taps(shape)))
    if not train:
        raise UsageError("the sources hold no weights to train on (floating-point tensors of at least two axes)")
    return WeightDataset(train, held_out)
