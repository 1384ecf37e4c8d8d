"""torchao weight-only quantisation through its `quantize_`: int4 in groups and int8 by rows, round to nearest.

int4 on a CPU is torchao's prototype of that name: the stable configuration wants a GPU. `quantize_` also takes the output
head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nwc_workflows.bench.rivals.rival import Need, Quantised, Subject, close_to, missing

if TYPE_CHECKING:
    import torch

_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class TorchAo:
    """On bfloat16 weights, as it is used; the tensors inside the quantised weight are counted.

    Attributes:
        group: of int4 weights; None for int8.
    """

    group: int | None
    name: str = "torchao"
    packages: tuple[str, ...] = ("torchao", "torch")
    needs: Need = None

    @property
    def setting(self) -> str:
        return f"int4, groups of {self.group}" if self.group else "int8"

    def reason_missing(self) -> str | None:
        return missing("rivals", "torchao")

    def quantise(self, subject: Subject) -> Quantised:
        layers = [*subject.linears, *([subject.head] if subject.head else [])]
        return subject.code(layers, self._code)

    def _code(self, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
        import torch
        from torchao.quantization import quantize_

        if self.group and weight.shape[1] % self.group:
            return None
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
        layer.weight = torch.nn.Parameter(weight.bfloat16(), requires_grad=False)
        quantize_(layer, self._config())
        coded: Any = layer.weight
        parts, _ = coded.__tensor_flatten__()
        with torch.inference_mode():  # int4 has no other way back: the layer's answers to unit vectors are its columns
            back = layer(torch.eye(weight.shape[1], dtype=torch.bfloat16)).T.contiguous()
        return back, sum(getattr(coded, part).nbytes for part in parts)

    def _config(self) -> Any:
        if self.group is None:
            from torchao.quantization import Int8WeightOnlyConfig

            return Int8WeightOnlyConfig(set_inductor_config=False)
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=self.group, set_inductor_config=False)


def rivals(rates: Sequence[float]) -> list[TorchAo]:
    """int4 with its group sizes, and int8."""
    int4 = [TorchAo(group) for group in _GROUPS] if close_to(rates, 4.5) else []
    return [*int4, *([TorchAo(None)] if close_to(rates, 8.0) else [])]
