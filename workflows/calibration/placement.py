"""From a parameter of the module to the matrices [k, m, n] of a tensor of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nwc_core.matrices import Layout
from nwc_workflows.calibration.locate import Piece

if TYPE_CHECKING:
    import torch

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Placement:
    """A piece of a tensor, and which part of the tensor's matrices it is.

    Attributes:
        piece: where in which parameter.
        layout, shape: of the tensor.
    """

    piece: Piece
    layout: Layout
    shape: tuple[int, ...]

    def matrices_of(self, values: torch.Tensor) -> torch.Tensor:
        """[k', m', n'] the part's matrices out of values of the parameter's shape; a view where possible."""
        k, m, n = (len(numbers) for numbers in self.places)
        return self.piece.cut(values).permute(self.layout.order).reshape(k, m, n)

    @cached_property
    def places(self) -> tuple[Numbers, Numbers, Numbers]:
        """int64 numbers of the part's matrices, rows and columns among the tensor's."""
        order, split = self.layout.order, self.layout.batch + self.layout.rows
        groups = (order[: self.layout.batch], order[self.layout.batch : split], order[split:])
        first, second, third = (self._numbers(group) for group in groups)
        return first, second, third

    def _numbers(self, group: tuple[int, ...]) -> Numbers:
        numbers = np.zeros(1, np.int64)
        for axis in group:
            places = self.piece.places[axis]
            along = np.arange(places.start, places.stop) if isinstance(places, slice) else places
            numbers = (numbers[:, None] * self.shape[axis] + along).ravel()
        return numbers

    def input_columns(self, input_axis: int) -> tuple[slice, Numbers] | None:
        """Which columns of a product's inputs concern this part, and their numbers among the tensor's columns.

        Args:
            input_axis: the parameter's axis along which the input runs; -1 for a convolution.

        Returns:
            None where the input does not run along the tensor's columns.
        """
        columns = self.places[2]
        if input_axis < 0:
            return slice(0, len(columns)), columns
        axis = self.piece.axes[input_axis]
        if self.layout.order[self.layout.batch + self.layout.rows :] != (axis,):
            return None
        return slice(*self.piece.box[input_axis]), columns

    def matrix_number(self, matrix: int | None) -> int | None:
        """Which matrix of the tensor is meant by an index along the parameter's first axis; None if it is another's."""
        numbers = self.places[0]
        if matrix is None:
            return int(numbers[0])
        start, stop = self.piece.box[0]
        if not start <= matrix < stop:
            return None
        return int(numbers[matrix - start if len(numbers) > 1 else 0])


def layout_for(piece: Piece, rank: int, input_axis: int) -> Layout | None:
    """The layout of a tensor whose columns are what the input runs along; None if it has no such form.

    Args:
        piece: of the tensor.
        rank: of the tensor.
        input_axis: the parameter's axis along which the input runs.
    """
    columns = piece.axes[input_axis]
    if columns is None or rank not in (2, 3):
        return None
    others = [axis for axis in range(rank) if axis != columns]
    return Layout((*others, columns), rank - 2, 1)
