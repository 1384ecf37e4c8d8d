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

_HEAVY_TAILED, _HEAVY_TAILED_SHAPE = "samples of heavy tails/", (256, 256)

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


def with_heavy_tails(dataset: WeightDataset, each: int, seed: int) -> WeightDataset:
    """The dataset with samples of heavy-tailed distributions to train on: `each` of Laplace's, and of Student's with 3 and 5
    degrees of freedom.

    Few published weights have tails as heavy once rows and columns have scales of their own, but those of a model that
    nobody trained on may, and tables that never saw such tails spend some hundredths of a bit more on them.
    """
    rng = np.random.default_rng([seed, 2])
    shape = (each, *_HEAVY_TAILED_SHAPE)
    samples = {
        "laplace": rng.laplace(size=shape),
        "student-t-3": rng.standard_t(3, shape),
        "student-t-5": rng.standard_t(5, shape),
    }
    added = [
        WeightMatrix(f"{_HEAVY_TAILED}{name}[{index}]", values.astype(np.float32), 1)
        for name, stack in samples.items()
        for index, values in enumerate(stack)
    ]
    return WeightDataset(dataset.train + added, dataset.held_out)


def is_heavy_tailed(matrix: WeightMatrix) -> bool:
    """Whether a matrix comes from `with_heavy_tails`, not from a checkpoint."""
    return matrix.name.startswith(_HEAVY_TAILED)
