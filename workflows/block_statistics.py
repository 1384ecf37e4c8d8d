"""What the errors of one block count: the block's own part of what a calibration knows about its tensor.

A block is a run of rows along one stored axis, behind fixed positions of the axes before it; that axis may be of experts,
of outputs or (where weights are stored input first) of inputs. Statistics are read one tensor at a time and the last
tensor's are kept, since its blocks are coded one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nwc_core.matrices import Layout
from nwc_workflows.blocks import Block

if TYPE_CHECKING:
    import torch

    from nwc_workflows.calibration.reading import Calibration, WeightStatistics

Floats = npt.NDArray[np.float32]
# A row counts at least this share of the mean row. The rows of an output layer that belong to tokens seldom predicted seem not
# to matter at all, and no second order sees that a large error makes such a token a likely one: at the rate where the head
# of a small language model was to lose 0.0004 nats it lost 0.014, with the least share as much as predicted, 0.002.
_LEAST_ROW = 0.1
# Bytes for each element of H [n, n] while a block is coded, measured: what is packed and square, and factors in float64.
_BYTES_PER_ELEMENT = 44


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    """As `WeightStatistics`, of a block.

    Attributes:
        layout: how the block is seen as k matrices of m rows and n columns.
        hessian: float32 [k, n, n]; None for the identity.
        rows: float32 [k, m], positive; None if nothing is known about them.
    """

    layout: Layout
    hessian: Floats | None
    rows: Floats | None

    def arguments(self) -> dict[str, Any]:
        """For the codec's `encode` and `rate_curve`."""
        import torch

        def tensor(values: Floats | None) -> torch.Tensor | None:
            return None if values is None else torch.from_numpy(values)

        return {"layout": self.layout, "hessian": tensor(self.hessian), "rows": tensor(self.rows)}


def statistics_memory(calibration: Calibration | None) -> Mapping[str, int]:
    """Bytes that a worker holds for the statistics of each tensor, by name, while it codes a block of it."""
    if calibration is None:
        return {}
    shapes = {weight.name: weight.matrix_shape for weight in calibration.record.weights if weight.hessian is not None}
    return {name: 6 * k * n * n + _BYTES_PER_ELEMENT * n * n for name, (k, _, n) in shapes.items()}


def shared_columns(calibration: Calibration | None) -> Mapping[str, int]:
    """Columns of H, of the tensors that have just one H; by name."""
    weights = () if calibration is None else calibration.record.weights
    shapes = {weight.name: weight.matrix_shape for weight in weights if weight.hessian is not None}
    return {name: n for name, (k, _, n) in shapes.items() if k == 1}


_last: dict[tuple[str, str, str], WeightStatistics | None] = {}  # of one tensor; one worker process, one at a time


def read_statistics(calibration: Calibration | None, block: Block) -> BlockStatistics | None:
    """The statistics of a block; None if there are none, or if they say that nothing of it was ever used.

    Raises:
        IntegrityError, FormatError, StoreError: see `Calibration.get`.
    """
    if calibration is None:
        return None
    key = (calibration.store.uri, calibration.fingerprint, block.tensor.name)
    if key not in _last:
        _last.clear()  # first: two of them might not fit
        _last[key] = calibration.get(block.tensor.name)
    whole = _last[key]
    return None if whole is None else _usable(cut_statistics(whole, block))


def tensor_statistics(whole: WeightStatistics) -> BlockStatistics | None:
    """The statistics of a tensor that is one block; None if they say that nothing of it was ever used."""
    return _usable(BlockStatistics(whole.layout, whole.hessian, whole.rows))


def cut_statistics(whole: WeightStatistics, block: Block) -> BlockStatistics:
    """The part of a tensor's statistics that is about one block of it.

    Errors of other blocks are independent of this one's, so that of a range of columns H is just its own square.
    """
    shape, layout = block.tensor.shape, whole.layout
    place, fixed = _place(block)
    groups = _groups(layout)
    batch, rows, columns = groups

    def pick(values: Floats | None, *of: tuple[int, ...]) -> Floats | None:
        """Axes of `of`, one group of them after the other, become matrices [k, ...] of the block."""
        if values is None:
            return None
        axes = [axis for group in of for axis in group]
        picked = values.reshape([shape[axis] for axis in axes])[tuple(place[axis] for axis in axes)]
        kept = [[_length(shape[axis], place[axis]) for axis in group if axis >= fixed] for group in of]
        return np.ascontiguousarray(picked).reshape([math.prod(sizes) for sizes in kept])

    order = tuple(axis - fixed for axis in layout.order if axis >= fixed)
    kernel = sum(axis >= fixed for axis in layout.order[len(layout.order) - layout.kernel :])
    kept = Layout(order, _kept(batch, fixed), _kept(rows, fixed), kernel)
    return BlockStatistics(kept, pick(whole.hessian, batch, columns, columns), pick(whole.rows, batch, rows))


def _place(block: Block) -> tuple[list[int | slice], int]:
    """Where a block is along each axis of its tensor, and how many axes, the first ones, are at a fixed position."""
    shape = block.tensor.shape
    fixed = len(shape) - len(block.shape)
    place: list[int | slice] = []
    rest = block.start
    for axis in range(fixed + 1):
        at, rest = divmod(rest, math.prod(shape[axis + 1 :]))
        place.append(at if axis < fixed else slice(at, at + block.shape[0]))
    return place + [slice(None)] * (len(shape) - fixed - 1), fixed


def _groups(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Axes of the stack, of the rows and of the columns, as stored."""
    split = layout.batch + layout.rows
    return layout.order[: layout.batch], layout.order[layout.batch : split], layout.order[split:]


def _kept(group: tuple[int, ...], fixed: int) -> int:
    return sum(axis >= fixed for axis in group)


def _length(size: int, place: int | slice) -> int:
    return len(range(size)[place]) if isinstance(place, slice) else 1


def _usable(found: BlockStatistics) -> BlockStatistics | None:
    if found.rows is None:
        return None if found.hessian is None else found
    mean = found.rows.mean(1, dtype=np.float64, keepdims=True)  # [k, 1]
    if not mean.any():
        return None
    mean[mean == 0] = mean.mean()  # of a matrix in the stack that was never used
    return replace(found, rows=np.maximum(found.rows, (_LEAST_ROW * mean).astype(np.float32)))
