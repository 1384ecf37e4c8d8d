"""Where the elements of tensors lie in the module that is made from them.

As in `nwc_workflows.calibration.locate` the module is loaded with numbers in place of weights; here each element has a number
of its own, so that one loading tells of any renaming, splitting and joining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Load = Callable[[dict[str, torch.Tensor]], torch.nn.Module]

# Numbers start here: what a library puts into weights that a checkpoint lacks (0, 1, random) is below.
_FIRST = 1000


def place(shapes: Mapping[str, tuple[int, ...]], names: Sequence[str], load: Load) -> dict[str, torch.Tensor]:
    """Which elements each parameter is made of.

    Args:
        shapes: of all tensors of the checkpoint, by name.
        names: of those to look for; together at most 2^23 elements.
        load: makes the module from a state dict, as it will be made from the real one.

    Returns:
        By name of the parameter, only for those made of such elements alone: int64 of the parameter's shape, positions in
        the tensors `names`, flattened and joined in this order. A parameter that holds changed values (their sum with
        1, say) may be among them: see `Objective`.
    """
    import torch

    state = {name: torch.tensor(-1.0).expand(shape) for name, shape in shapes.items()}  # takes no memory
    start = _FIRST
    for name in names:
        stop = start + state[name].numel()
        state[name] = torch.arange(start, stop, dtype=torch.float32).reshape(shapes[name])
        start = stop
    return {
        parameter: values.detach().long() - _FIRST
        for parameter, values in load(state).named_parameters()
        if values.numel() and bool(((values >= _FIRST) & (values < start) & (values == values.round())).all())
    }
