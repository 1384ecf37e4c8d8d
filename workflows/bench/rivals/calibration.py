"""Calibration data, and what layers see of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nwc_workflows.bench.rivals.rival import Linear
from nwc_workflows.evaluation.task import Task

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Calibration:
    """Data of the kind that the model is evaluated on, but not the same.

    Attributes:
        task: that runs a model on it.
        load: gives the original model, in float32.
    """

    task: Task
    load: Callable[[], torch.nn.Module]

    def mean_squares(self, linears: Sequence[Linear]) -> dict[str, torch.Tensor]:
        """Mean square of every input of the layers over all the data, float32 [in], by name of the stored tensor.

        This is what llama.cpp calls an importance matrix. Layers that the data never reached are left out.
        """
        model = self.load()
        sums: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}

        def watch(name: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
                rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
                sums[name] = sums.get(name, 0) + rows.square().sum(0)
                counts[name] = counts.get(name, 0) + len(rows)

            return hook

        for linear in linears:
            model.get_submodule(linear.module).register_forward_pre_hook(watch(linear.name))
        for _ in self.task.outputs(model, lambda amount: None):
            pass
        return {name: (total / counts[name]).float() for name, total in sums.items()}
