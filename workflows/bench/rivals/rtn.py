"""Round to nearest: integers with a scale and a zero point for each group of weights along the input axis.

Stored are the packed integers and, for each group, the scale in float16 and the zero point in as many bits as a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nwc_core.matrices import default_layout
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject

if TYPE_CHECKING:
    import torch

_GROUPS = (32, 64, 128)
_BITS = range(2, 9)
_SCALE_NBYTES = 2


@dataclass(frozen=True)
class RoundToNearest:
    """Asymmetric, over every matrix, embeddings included."""

    bits: int
    group: int
    name: str = "rtn"
    packages: tuple[str, ...] = ("nwc",)
    needs: Need = None

    @property
    def setting(self) -> str:
        return f"{self.bits} bits, groups of {self.group}"

    def reason_missing(self) -> str | None:
        return None

    def quantise(self, subject: Subject) -> Quantised:
        transposed = {linear.name for linear in subject.linears if linear.transposed}
        coded = {}
        for name in subject.matrices:
            tensor = subject.state[name]
            if name in transposed:
                weight, nbytes = round_to_nearest(tensor.float().T.contiguous(), self.bits, self.group)
                coded[name] = Coded(weight.T.contiguous(), nbytes)
            else:
                coded[name] = self._code(tensor)
        return subject.with_rest(coded)

    def _code(self, tensor: torch.Tensor) -> Coded:
        import torch

        shape = tuple(tensor.shape)
        layout = default_layout(shape)
        rows = torch.from_numpy(layout.to_matrices(tensor.float().numpy())).flatten(0, 1)  # [matrices * out, in]
        weight, nbytes = round_to_nearest(rows, self.bits, self.group)
        stacked = weight.numpy().reshape(layout.matrix_shape(shape))
        return Coded(torch.from_numpy(layout.from_matrices(stacked, shape)), nbytes)


def round_to_nearest(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, int]:
    """(what is read back, bytes stored) for a float32 weight [rows, columns]; a row's last group may be shorter."""
    import torch

    rows, columns = weight.shape
    groups = -(-columns // group)
    padded = torch.nn.functional.pad(weight, (0, groups * group - columns), mode="constant", value=0.0)
    blocks = padded.reshape(rows, groups, group)  # zeros change no range: every range is made to hold zero
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    top = 2**bits - 1
    scale = ((high - low) / top).half().float()
    safe = torch.where(scale > 0, scale, 1.0)
    zero = (-low / safe).round().clamp(0, top)
    points = ((blocks / safe).round() + zero).clamp(0, top)
    back = ((points - zero) * scale).reshape(rows, -1)[:, :columns].contiguous()
    integers = rows * columns + rows * groups  # weights and zero points
    return back, -(-integers * bits // 8) + rows * groups * _SCALE_NBYTES


def rivals(rates: Sequence[float]) -> list[RoundToNearest]:
    """At the rates that are whole numbers of bits."""
    return [RoundToNearest(int(rate), group) for rate in rates if rate in _BITS for group in _GROUPS]
