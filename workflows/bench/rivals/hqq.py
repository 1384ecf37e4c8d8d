"""HQQ: groups with scale and zero point, the zero points found by half-quadratic optimisation; no calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nwc_workflows.bench.rivals.rival import Need, Quantised, Subject, close_to, missing

if TYPE_CHECKING:
    import torch

_GROUPS = (64, 128)
_BITS = (2, 3, 4, 8)  # 5 and 6 are stored in 8 bits each


@dataclass(frozen=True)
class Hqq:
    """The package's own linear layer, whose packed weights, scales and zero points (float16) are counted."""

    bits: int
    group: int
    name: str = "hqq"
    packages: tuple[str, ...] = ("hqq", "torch")
    needs: Need = None

    @property
    def setting(self) -> str:
        return f"{self.bits} bits, groups of {self.group}"

    def reason_missing(self) -> str | None:
        return missing("rivals", "hqq")

    def quantise(self, subject: Subject) -> Quantised:
        return subject.code(subject.linears, self._code)

    def _code(self, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
        import torch
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

        if weight.shape[1] % self.group:
            return None
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
        config = BaseQuantizeConfig(nbits=self.bits, group_size=self.group, axis=1)
        coded = HQQLinear(layer, config, compute_dtype=torch.float16, device="cpu")
        stored = (coded.W_q, coded.meta["scale"], coded.meta["zero"])
        return coded.dequantize(), sum(part.nbytes for part in stored)


def rivals(rates: Sequence[float]) -> list[Hqq]:
    """At the bits that it packs."""
    return [Hqq(bits, group) for bits in _BITS if close_to(rates, bits) for group in _GROUPS]
