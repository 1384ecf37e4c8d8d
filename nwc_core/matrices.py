"""Any tensor as a stack of matrices [out, in], with the input axis known.

A linear weight [out, in] is one matrix as it lies. A convolution is out x (in * taps) with the taps of one kernel kept
together. Stacked experts are one matrix each. The view is stored with the coded tensor, so decoding never guesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nwc_core.wire import ByteReader, ByteWriter

_MAX_KERNEL = 16  # no one trains larger kernels than this per axis; wider trailing axes are features
_MIN_STACKED = 4096  # matrices smaller than this share one stack of rows: each would cost a header of its own


@dataclass(frozen=True)
class Layout:
    """How a tensor is seen as matrices: permute the axes, then group them.

    Attributes:
        order: permutation of the axes.
        batch: how many of the permuted axes count separate matrices.
        rows: how many of the following ones form the rows (output); the rest form the columns (input).
        kernel: how many of the last permuted axes are the taps of a convolution kernel; only the encoder uses it.
    """

    order: tuple[int, ...]
    batch: int
    rows: int
    kernel: int = 0

    def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(matrices, rows, columns) of a tensor of this shape."""
        sizes = [shape[axis] for axis in self.order]
        split = self.batch + self.rows
        return math.prod(sizes[: self.batch]), math.prod(sizes[self.batch : split]), math.prod(sizes[split:])

    def taps(self, shape: tuple[int, ...]) -> int:
        """Number of taps of one convolution kernel, 1 where there is none."""
        return math.prod(shape[axis] for axis in self.order[len(self.order) - self.kernel :])

    @property
    def is_plain(self) -> bool:
        """Whether matrices lie in memory as the tensor does."""
        return self.order == tuple(range(len(self.order)))

    def to_matrices(self, tensor: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """[matrices, rows, columns], contiguous; a view where the order allows."""
        return np.ascontiguousarray(tensor.transpose(self.order)).reshape(self.matrix_shape(tensor.shape))

    def from_matrices(self, matrices: npt.NDArray[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        """The inverse of `to_matrices`, contiguous."""
        stacked = matrices.reshape([shape[axis] for axis in self.order])
        return np.ascontiguousarray(stacked.transpose(np.argsort(self.order)))

    def write(self, out: ByteWriter) -> None:
        for axis in self.order:
            out.u8(axis)
        out.u8(self.batch)
        out.u8(self.rows)

    @classmethod
    def read(cls, reader: ByteReader, rank: int) -> Layout:
        order = tuple(reader.u8() for _ in range(rank))
        if sorted(order) != list(range(rank)):
            raise reader.fail(f"axis order {list(order)}", f"a permutation of {rank} axes")
        batch, rows = reader.u8(), reader.u8()
        if batch + rows > rank:
            raise reader.fail(f"{batch} batch and {rows} row axes", f"at most {rank} axes")
        return cls(order, batch, rows)


def default_layout(shape: tuple[int, ...]) -> Layout:
    """The layout of a weight by its shape alone.

    4-D with small trailing axes is a convolution [out, in, h, w] (PyTorch, ONNX); with small leading ones [h, w, in, out]
    (TensorFlow). 3-D with a small last axis is a 1-D convolution, otherwise a stack of matrices (experts).
    """
    rank = len(shape)
    axes = tuple(range(rank))
    if rank <= 2:
        return Layout(axes, 0, min(rank, 1))
    if rank >= 4 and max(shape[2:]) <= _MAX_KERNEL:
        return Layout(axes, 0, 1, kernel=rank - 2)
    if rank == 4 and shape[0] == shape[1] <= _MAX_KERNEL:
        return Layout((3, 2, 0, 1), 0, 1, kernel=2)
    if rank == 3 and shape[2] <= _MAX_KERNEL:
        return Layout(axes, 0, 1, kernel=1)
    if rank == 3 and shape[1] * shape[2] >= _MIN_STACKED:
        return Layout(axes, 1, 1)
    return Layout(axes, 0, rank - 1)
