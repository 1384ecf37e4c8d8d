"""Before anything is measured: which weights there are, where they lie in the module, and how its data meets them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nwc_core.dtypes import from_torch
from nwc_core.matrices import Layout, default_layout
from nwc_workflows.calibration.items import Items
from nwc_workflows.calibration.locate import Piece, locate
from nwc_workflows.calibration.placement import Placement, layout_for
from nwc_workflows.calibration.source import ModelSource, state_digest

if TYPE_CHECKING:
    import torch

    from nwc_workflows.calibration.watch import Lookup, Product


@dataclass(frozen=True)
class Survey:
    """What a first look found.

    Attributes:
        model: SHA-256 (hex) of the model's weights.
        model_nbytes: bytes of the module in memory.
        activation_nbytes: bytes of what goes into and comes out of all products of one item.
        placements: of every weight that may be measured, by the checkpoint's names; in the module's order.
        unplaced: weights that are not among them, and why.
    """

    model: str
    model_nbytes: int
    activation_nbytes: int
    placements: dict[str, list[Placement]]
    unplaced: dict[str, str]


def survey(source: ModelSource, items: Items) -> Survey:
    """Take a first look: load the model several times, and run it on the first item."""
    stored = source.open()
    state = stored.state()
    digest = state_digest(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {name for name, tensor in state.items() if _is_weight(tensor)}
    pieces = locate(shapes, lambda numbers: source.build(stored, numbers))
    module = source.build(stored, state)
    del state
    seen, activation_nbytes = _observe(module, items)
    axes: dict[str, int] = {}
    for use in seen:
        axis = getattr(use, "input_axis", 1)  # a table's columns are what comes out of it
        axes.setdefault(use.parameter, axis)
    placements: dict[str, list[Placement]] = {}
    for parameter, those in pieces.items():
        for piece in those:
            if piece.tensor in wanted:
                layout = _layout(piece, shapes[piece.tensor], axes.get(parameter, -1))
                of = placements.setdefault(piece.tensor, [])
                of.append(Placement(piece, of[0].layout if of else layout, shapes[piece.tensor]))
    model_nbytes = sum(values.nbytes for values in (*module.parameters(), *module.buffers()))
    return Survey(digest, model_nbytes, activation_nbytes, *_complete(placements, wanted, shapes))


def _is_weight(tensor: torch.Tensor) -> bool:
    return tensor.ndim >= 2 and tensor.numel() > 0 and from_torch(tensor.dtype).lossy


def _observe(module: torch.nn.Module, items: Items) -> tuple[list[Product | Lookup], int]:
    """Uses of weights while the first item runs, lookups first, and bytes of all products."""
    import torch

    from nwc_workflows.calibration.watch import Lookup, Product, Watch

    seen: list[Product | Lookup] = []
    with torch.inference_mode(), Watch(module, seen.append):
        for inputs in items.inputs(0, 1):
            items.forward(module, inputs)
    nbytes = sum(use.nbytes for use in seen if isinstance(use, Product))
    return sorted(seen, key=lambda use: not isinstance(use, Lookup)), nbytes


def _layout(piece: Piece, shape: tuple[int, ...], input_axis: int) -> Layout:
    """Columns are what the input runs along, where that is known; else as the shape alone suggests."""
    found = layout_for(piece, len(shape), input_axis) if input_axis >= 0 else None
    return found or default_layout(shape)


def _complete(
    placements: dict[str, list[Placement]], wanted: set[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, list[Placement]], dict[str, str]]:
    """Weights whose every element was found in the module, and the others with the reason."""
    found = {
        name: sum(math.prod(stop - start for start, stop in placement.piece.box) for placement in of)
        for name, of in placements.items()
    }
    whole = {name: of for name, of in placements.items() if found[name] == math.prod(shapes[name])}
    return whole, {name: "not a parameter of the module" for name in shapes if name in wanted and name not in whole}
