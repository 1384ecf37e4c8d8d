"""Indexing a stored tensor like a torch tensor, reading only the rows that the leading axis asks for."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from types import EllipsisType

    import torch

    Item = SupportsIndex | slice | EllipsisType


class TensorSlice:
    """One tensor of an artifact, not read yet.

    Args:
        shape: of the tensor.
        dtype: safetensors' name of the element type.
        read: read(start, stop) gives elements [start, stop) of the flattened tensor; none where the two are equal.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, read: Callable[[int, int], torch.Tensor]) -> None:
        self._shape, self._dtype, self._read = shape, dtype, read

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """safetensors' name of the element type, e.g. "BF16"."""
        return self._dtype

    def __getitem__(self, key: Item | tuple[Item, ...]) -> torch.Tensor:
        """Integers, slices with a step of at least 1, an Ellipsis, or a tuple of these, as torch understands them.

        Raises:
            IndexError: an integer outside of its axis, or more of them than axes.
            TypeError: anything else to index by.
            ValueError: a step below 1.
        """
        import torch

        items = _expand(key if isinstance(key, tuple) else (key,), len(self._shape))
        if not self._shape:
            return self._read(0, 1).reshape(())
        leading, *others = items
        size, row = self._shape[0], math.prod(self._shape[1:])
        touched = range(size)[leading] if isinstance(leading, slice) else [_position(leading, size)]
        low, high = (touched[0], touched[-1] + 1) if touched else (0, 0)
        inner: slice | int = slice(None, None, leading.step) if isinstance(leading, slice) else 0
        rows = self._rows(low, high, row)
        picked = rows[(inner, *others)]
        if picked.shape == rows.shape:
            return rows
        # A view would keep all of the rows alive, and its strides may be odd even where torch calls it contiguous.
        return picked.clone(memory_format=torch.contiguous_format)

    def _rows(self, low: int, high: int, row: int) -> torch.Tensor:
        """Rows [low, high), each of `row` elements."""
        return self._read(low * row, high * row).reshape(high - low, *self._shape[1:])


def _expand(items: tuple[Item, ...], rank: int) -> list[slice | int]:
    """One slice or integer for each axis."""
    checked: list[slice | int | EllipsisType] = []
    for item in items:
        if item is Ellipsis:
            checked.append(item)
        elif isinstance(item, slice):
            if item.step is not None and operator.index(item.step) < 1:
                raise ValueError(f"slice step {item.step}: must be 1 or more")
            checked.append(item)
        elif isinstance(item, bool) or not isinstance(item, SupportsIndex):
            raise TypeError(f"cannot index by {type(item).__name__}: wanted integers, slices, an Ellipsis, or a tuple")
        else:
            checked.append(operator.index(item))
    if checked.count(Ellipsis) > 1:
        raise IndexError("an index can only have a single Ellipsis")
    given = len(checked) - checked.count(Ellipsis)
    if given > rank:
        raise IndexError(f"{given} indices for a tensor of {rank} dimensions")
    at = checked.index(Ellipsis) if Ellipsis in checked else len(checked)
    fill: list[slice | int | EllipsisType] = [slice(None)] * (rank - given)
    return [item for item in (*checked[:at], *fill, *checked[at + 1 :]) if item is not Ellipsis]


def _position(index: int, size: int) -> int:
    """A possibly negative index as a row number."""
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for an axis of size {size}")
    return index % size
