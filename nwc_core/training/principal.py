"""Transforms that are not learned: the principal axes of the taps (Karhunen-Loeve), to compare learned ones with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nwc_core.training.dataset import WeightMatrix


class FixedTransform(nn.Module):
    """A transform [g, g] without parameters, in place of `OrthonormalTransform`."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix: torch.Tensor
        self.register_buffer("matrix", matrix)

    @property
    def size(self) -> int:
        """g."""
        return int(self.matrix.shape[0])

    def forward(self) -> torch.Tensor:
        return self.matrix


def principal_axes(matrices: Sequence[WeightMatrix], size: int) -> torch.Tensor:
    """[size, size] float32, orthonormal: as rows, the axes of all kernels of `size` taps, the largest variance first.

    Matrices count as training draws them: of root mean square 1, by the square root of their size.
    """
    moments = np.zeros((size, size))
    for matrix in matrices:
        if matrix.taps == size:
            kernels = matrix.values.reshape(-1, size).astype(np.float64)
            energy = np.square(kernels).mean() + 1e-30
            moments += np.sqrt(matrix.values.size) * (kernels.T @ kernels) / (len(kernels) * energy)
    _, vectors = np.linalg.eigh(moments)
    return torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1].T).astype(np.float32))
