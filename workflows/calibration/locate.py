"""Where every tensor of a checkpoint lies in the module that was made from it.

transformers renames tensors, drops prefixes, stacks experts and splits or joins projections while it loads. Instead of
its rules we look at what they do: the module is loaded with numbers in place of weights, first the number of the
tensor, then the index along each of its axes, and the parameters tell what came from where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    Load = Callable[[dict[str, torch.Tensor]], torch.nn.Module]

# Numbers of tensors start here: what a library puts into weights that a checkpoint lacks (0, 1, random) is below.
_FIRST = 1000
# float32 holds whole numbers up to this.
_MAX_EXACT = 1 << 24
# A parameter in more parts than this was not put together from tensors (128 experts of two projections are 256).
_MAX_PARTS = 1 << 14

Places = slice | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A tensor of the checkpoint, or a part of it, as it lies in a parameter.

    Attributes:
        tensor: its name in the checkpoint.
        parameter: name of the parameter.
        box: (start, stop) along each axis of the parameter.
        axes: for each axis of the parameter the axis of the tensor that runs along it; None for one of length 1 in
            the box.
        places: for each axis of the tensor its indices in the box: a slice, or int64 if they are not consecutive.
    """

    tensor: str
    parameter: str
    box: tuple[tuple[int, int], ...]
    axes: tuple[int | None, ...]
    places: tuple[Places, ...]

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """The piece's part of values of the parameter's shape, a view with the tensor's axes where possible."""
        part = values[tuple(slice(*ends) for ends in self.box)]
        for axis in reversed([i for i, of in enumerate(self.axes) if of is None]):
            part = part.squeeze(axis)
        kept = [of for of in self.axes if of is not None]
        lengths = [p.stop - p.start if isinstance(p, slice) else len(p) for p in self.places]
        return part.permute([kept.index(axis) for axis in sorted(kept)]).reshape(lengths)


def locate(shapes: Mapping[str, tuple[int, ...]], load: Load) -> dict[str, list[Piece]]:
    """The pieces of each parameter, by its name; parameters in the module's order.

    Args:
        shapes: of the checkpoint's tensors, by name.
        load: makes the module from a state dict, as it will be made from the real one.

    Returns:
        Only parameters of two axes or more, and of these only what is made of tensors unchanged.
    """
    names = list(shapes)
    ids = load({name: _filled(shape, _FIRST + i) for i, (name, shape) in enumerate(shapes.items())})
    found = {
        parameter: cells
        for parameter, values in ids.named_parameters()
        if values.ndim >= 2 and (cells := _cells(values, names))
    }
    del ids
    rank = max((len(shapes[name]) for cells in found.values() for name, _ in cells), default=0)
    along = [_indices(shapes, axis, load, found) for axis in range(rank)]
    pieces = {
        parameter: [
            piece
            for number, (name, box) in enumerate(cells)
            if (piece := _piece(parameter, name, box, [axis[parameter][number] for axis in along], shapes[name]))
        ]
        for parameter, cells in found.items()
        # Tied weights that are stored twice: transformers ties them where they are equal, as they are here, and were not above.
        if all(parameter in axis for axis in along)
    }
    return {parameter: those for parameter, those in pieces.items() if those}


_Box = tuple[tuple[int, int], ...]
_Cell = tuple[str, _Box]
_Run = tuple[int | None, Places] | None  # the parameter's axis along which an index runs, and its values


def _filled(shape: tuple[int, ...], value: int) -> torch.Tensor:
    import torch

    return torch.tensor(float(value)).expand(shape)  # takes no memory


def _cells(values: torch.Tensor, names: list[str]) -> list[_Cell]:
    """Which tensors a parameter is made of, and where; [] if it is made of anything else."""
    corner = (0,) * values.ndim
    if not _is_number(float(values[corner]), names):
        return []
    whole = tuple((0, size) for size in values.shape)
    cells = []
    for box in [whole] if bool((values == values[corner]).all()) else _grid(values):
        number = float(values[tuple(slice(*ends) for ends in box)][corner])
        if not _is_number(number, names):
            return []
        cells.append((names[int(number) - _FIRST], box))
    return cells


def _is_number(value: float, names: list[str]) -> bool:
    return value.is_integer() and _FIRST <= value < _FIRST + len(names)


def _grid(values: torch.Tensor) -> Iterator[_Box]:
    """The boxes between the planes where values change anywhere; none if there are too many."""
    cuts = []
    for axis, size in enumerate(values.shape):
        changes = values.narrow(axis, 1, size - 1) != values.narrow(axis, 0, size - 1)
        others = [other for other in range(values.ndim) if other != axis]
        places = changes.any(others).nonzero().flatten() if others else changes.nonzero().flatten()
        cuts.append([0, *(int(place) + 1 for place in places), size])
    parts = np.prod([len(cut) - 1 for cut in cuts], dtype=np.float64)
    return product(*(pairwise(cut) for cut in cuts)) if parts <= _MAX_PARTS else iter(())


def _indices(
    shapes: Mapping[str, tuple[int, ...]], axis: int, load: Load, found: Mapping[str, list[_Cell]]
) -> dict[str, list[_Run]]:
    """For each cell of each parameter, how the index along this axis of the tensor runs in it."""
    import torch

    def numbered(shape: tuple[int, ...]) -> torch.Tensor:
        if axis >= len(shape) or shape[axis] > _MAX_EXACT:
            return _filled(shape, -1)
        return torch.arange(shape[axis], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - axis - 1)).expand(shape)

    values = dict(load({name: numbered(shape) for name, shape in shapes.items()}).named_parameters())
    return {
        parameter: [_run(values[parameter][tuple(slice(*ends) for ends in box)]) for _, box in cells]
        for parameter, cells in found.items()
        if parameter in values
    }


def _run(values: torch.Tensor) -> _Run:
    """The one axis of a cell along which its values change, and those values; None if there are several."""
    import torch

    corner = (0,) * values.ndim
    changing = [axis for axis in range(values.ndim) if bool((values != values.narrow(axis, 0, 1)).any())]
    if len(changing) > 1 or float(values[corner]) < 0:
        return None
    if not changing:
        start = int(values[corner])
        return None, slice(start, start + 1)
    axis = changing[0]
    line = values[tuple(slice(None) if i == axis else 0 for i in range(values.ndim))].to(torch.int64).numpy()
    start, stop = int(line[0]), int(line[0]) + len(line)
    return axis, slice(start, stop) if np.array_equal(line, np.arange(start, stop)) else line.copy()


def _piece(parameter: str, name: str, box: _Box, runs: list[_Run], shape: tuple[int, ...]) -> Piece | None:
    """A cell with its axes; None if a tensor was changed by more than moving its axes and indices."""
    axes: list[int | None] = [None] * len(box)
    places: list[Places] = []
    for of, size in enumerate(shape):
        run = runs[of]
        if run is None:
            return None
        axis, values = run
        numbers = np.arange(values.start, values.stop) if isinstance(values, slice) else values
        if numbers.max() >= size or len(np.unique(numbers)) < len(numbers):
            return None
        places.append(values)
        if axis is not None:
            axes[axis] = of
    if any(axes[axis] is None and stop - start > 1 for axis, (start, stop) in enumerate(box)):
        return None
    return Piece(name, parameter, box, tuple(axes), tuple(places))
