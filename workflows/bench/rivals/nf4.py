"""bitsandbytes NF4: 4-bit codes of a normal distribution's quantiles, with the largest magnitude of each 64 weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nwc_workflows.bench.rivals.rival import Need, Quantised, Subject, close_to, missing

if TYPE_CHECKING:
    import torch

_BLOCK = 64  # weights, the package's own default


@dataclass(frozen=True)
class Nf4:
    """Codes, magnitudes and codebooks are counted, as the package writes them into a state dict.

    Attributes:
        double: the magnitudes are quantised, too.
    """

    double: bool
    name: str = "nf4"
    packages: tuple[str, ...] = ("bitsandbytes", "torch")
    needs: Need = None

    @property
    def setting(self) -> str:
        return "double quantisation" if self.double else "plain"

    def reason_missing(self) -> str | None:
        return missing("rivals", "bitsandbytes")

    def quantise(self, subject: Subject) -> Quantised:
        return subject.code(subject.linears, self._code)

    def _code(self, weight: torch.Tensor) -> tuple[torch.Tensor, int]:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        # Blocks run over the flattened tensor in any case; given one row, the CPU kernel of version 0.50 reads them back
        # rightly. Given rows that are not whole blocks, it does not.
        flat = weight.float().reshape(1, -1)
        codes, state = quantize_4bit(flat, blocksize=_BLOCK, compress_statistics=self.double, quant_type="nf4")
        stored = [codes, *state.as_dict(packed=True).values()]
        return dequantize_4bit(codes, state).reshape(weight.shape), sum(part.nbytes for part in stored)


def rivals(rates: Sequence[float]) -> list[Nf4]:
    """Both forms, 4.5 and 4.13 bits per weight."""
    return [Nf4(double) for double, bits in ((False, 4.5), (True, 4.13)) if close_to(rates, bits)]
