"""Running a model on items and adding up what they say about a group of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from nwc_workflows.calibration.items import Items, generator
from nwc_workflows.calibration.placement import Placement
from nwc_workflows.calibration.sums import WeightSums
from nwc_workflows.calibration.watch import Lookup, Product, Watch


class Gathering:
    """Sums of a group of weights.

    Args:
        module: the model, none of whose parameters requires a gradient.
        placements: of every weight of the group, by name.
        input_only: no gradients: products of the inputs instead, and counts of what was looked up.
        seed: of what is drawn at random.

    Attributes:
        sums: by name.
    """

    def __init__(
        self, module: torch.nn.Module, placements: Mapping[str, Sequence[Placement]], *, input_only: bool, seed: int
    ) -> None:
        self.module, self.input_only, self.seed = module, input_only, seed
        self.sums = {name: WeightSums(of[0].layout.matrix_shape(of[0].shape)) for name, of in placements.items()}
        self._placements: dict[str, list[Placement]] = {}
        for of in placements.values():
            for placement in of:
                self._placements.setdefault(placement.piece.parameter, []).append(placement)
        self._observed: set[str] = set()
        self._item = -1

    def run(self, items: Items, start: int, stop: int) -> None:
        """Add the items [start, stop)."""
        watch = Watch(self.module, self._observe)
        if self.input_only:
            with torch.inference_mode(), watch:
                for inputs in items.inputs(start, stop):
                    items.forward(self.module, inputs)
        else:
            self._run_backward(items, start, stop, watch)
        for name, sums in self.sums.items():
            sums.finish()
            if name not in self._observed:  # used by an operation that is not watched, if at all
                sums.positions += sums.counts.amax(1)

    def _run_backward(self, items: Items, start: int, stop: int, watch: Watch) -> None:
        """Only the group's parameters require a gradient, so the graph begins at the first of them."""
        parameters = dict(self.module.named_parameters())
        wanted = {name: parameters[name] for name in self._placements}
        hooks = []
        try:
            for name, parameter in wanted.items():
                parameter.requires_grad_(True)
                hook: Any = parameter.register_post_accumulate_grad_hook  # untyped
                hooks.append(hook(self._take_gradient(name)))
            for number, inputs in enumerate(items.inputs(start, stop), start):
                self._item = number
                with watch:
                    output = items.forward(self.module, inputs)
                if output.requires_grad:  # else no weight of the group takes part
                    items.score(output, generator(self.seed, "item", number)).backward()  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in wanted.values():
                parameter.requires_grad_(False)
                parameter.grad = None

    def _take_gradient(self, name: str) -> Callable[[torch.Tensor], None]:
        def take(parameter: torch.Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            for placement in self._placements[name]:
                tensor = placement.piece.tensor
                random = generator(self.seed, "rows", self._item, tensor, *placement.piece.box)
                self.sums[tensor].add_gradient(placement.matrices_of(gradient), placement.places, random)
            parameter.grad = None  # at once: never more than one gradient is there

        return take

    def _observe(self, seen: Product | Lookup) -> None:
        for placement in self._placements.get(seen.parameter, ()):
            tensor = placement.piece.tensor
            self._observed.add(tensor)
            sums = self.sums[tensor]
            if isinstance(seen, Lookup):
                sums.positions[0] += seen.rows.numel()
                if self.input_only:
                    _count(placement, seen.rows, sums)
                continue
            number = placement.matrix_number(seen.matrix)
            if number is None:
                continue
            sums.positions[number] += round(seen.positions * seen.share)
            if self.input_only and (found := placement.input_columns(seen.input_axis)) is not None:
                columns, numbers = found
                inputs = seen.inputs()
                sums.add_inputs(number, inputs.reshape(-1, inputs.shape[-1])[:, columns], numbers)


def _count(placement: Placement, rows: torch.Tensor, sums: WeightSums) -> None:
    """How often each row of a table was looked up."""
    start, stop = placement.piece.box[0]
    counts = torch.bincount(rows.flatten(), minlength=stop)[start:stop]
    numbers = placement.places[1]
    if len(numbers) == len(counts):
        sums.counts[0, torch.from_numpy(numbers)] += counts
