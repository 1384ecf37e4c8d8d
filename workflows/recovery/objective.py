"""What recovery makes smaller: how far the compressed model's output is from the original's, given the values tuned.

Some batches are held out: no step is made on them, and what was gained is measured there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

if TYPE_CHECKING:
    from nwc_workflows.recovery.batches import Batches

_EVERY = 5  # one batch in so many is held out
_MOST_HELD_OUT = 32  # batches, enough to see a gain of a percent; each round of tuning runs on all of them
_KEPT_NBYTES = 1 << 29  # of the original's outputs; the rest are computed whenever they are needed


class Objective:
    """The distance of outputs, in the unit of `Batches`, per prediction.

    Args:
        original, compressed: modules.
        places: of the elements in the compressed module's parameters, from `place`.
        values: float32 [elements] that it has now.
        batches: the data, at least two.

    Attributes:
        training, held_out: numbers of batches.
        reached: bool [elements], those that a parameter of the module is made of, unchanged.
    """

    def __init__(
        self,
        original: torch.nn.Module,
        compressed: torch.nn.Module,
        places: Mapping[str, torch.Tensor],
        values: torch.Tensor,
        batches: Batches,
    ) -> None:
        self._original, self._compressed, self._batches = original, compressed, batches
        parameters = dict(compressed.named_parameters())
        # A tensor of which the module holds something else than its values is left alone.
        self._places = {name: at for name, at in places.items() if torch.equal(values[at], parameters[name])}
        self.reached = torch.zeros(len(values), dtype=torch.bool)
        for at in self._places.values():
            self.reached[at.flatten()] = True
        held_out = range(0, batches.count, _EVERY)[:_MOST_HELD_OUT]
        self.held_out: Sequence[int] = held_out
        self.training: Sequence[int] = [number for number in range(batches.count) if number not in held_out]
        self._kept: dict[int, torch.Tensor] = {}
        self._kept_nbytes = 0

    def loss(self, values: torch.Tensor, number: int) -> torch.Tensor:
        """The distance on one batch, differentiable by `values`."""
        given = {name: values[at] for name, at in self._places.items()}

        def call(*args: Any, **options: Any) -> Any:
            return functional_call(self._compressed, given, args, options)

        target = self._target(number)
        return self._batches.distance(target, self._batches.output(call, number)) / len(target)

    def held_out_loss(self, values: torch.Tensor) -> float:
        """The mean over the batches held out."""
        with torch.no_grad():
            return sum(float(self.loss(values, number)) for number in self.held_out) / len(self.held_out)

    def held_out_loss_of(self, module: torch.nn.Module) -> float:
        """The same for a module as it is."""
        total = 0.0
        with torch.no_grad():
            for number in self.held_out:
                target = self._target(number)
                total += float(self._batches.distance(target, self._batches.output(module, number))) / len(target)
        return total / len(self.held_out)

    def _target(self, number: int) -> torch.Tensor:
        if number in self._kept:
            return self._kept[number]
        with torch.no_grad():
            output = self._batches.output(self._original, number)
        if self._kept_nbytes + output.nbytes <= _KEPT_NBYTES:
            self._kept[number] = output
            self._kept_nbytes += output.nbytes
        return output
