"""Scalar quantisation with water-filling, the core of WaterSIC: errors are fed back from column to column, steps differ by
column as the factor of H says, and an entropy coder writes the integers.

It is made of this package's encoder with everything off that goes beyond: no trellis, no bases, no learned transform, the
same rate in every tensor, all outputs alike. H and the entropy coder's tables are ours, which flatters it: the tables,
which it would have to store, are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nwc_core.codec import Codec
from nwc_core.decorrelate import Parts
from nwc_core.matrices import default_layout
from nwc_core.nwc_coder import NwcCoder
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject

if TYPE_CHECKING:
    import torch

    from nwc_workflows.calibration.reading import WeightStatistics


@dataclass(frozen=True)
class WaterFilling:
    """At one rate.

    Attributes:
        bits: per weight of every coded tensor.
    """

    bits: float
    name: str = "scalar-waterfilling"
    packages: tuple[str, ...] = ("nwc",)
    needs: Need = "statistics"

    @property
    def setting(self) -> str:
        return f"{self.bits:g} bits in each tensor, tables apart"

    def reason_missing(self) -> str | None:
        return None

    def quantise(self, subject: Subject) -> Quantised:
        codec = _plain_codec()
        coded = {
            name: self._code(codec, subject.state[name], subject.statistics.get(name)) for name in subject.matrices
        }
        return subject.with_rest(coded)

    def _code(self, codec: Codec, weight: torch.Tensor, statistics: WeightStatistics | None) -> Coded:
        import torch

        hessian = None
        layout = default_layout(tuple(weight.shape))
        if statistics is not None:
            layout = statistics.layout
            hessian = None if statistics.hessian is None else torch.from_numpy(statistics.hessian)
        encoded = codec.encode(weight, self.bits, preset="scalar", layout=layout, hessian=hessian)
        return Coded(codec.decode(encoded), encoded.nbytes)


def _plain_codec() -> Codec:
    coder = Codec.load("default").coder
    assert isinstance(coder, NwcCoder)
    return Codec.of(replace(coder, parts=Parts(transforms=False, bases=False)), {})


def rivals(rates: Sequence[float]) -> list[WaterFilling]:
    """At all rates."""
    return [WaterFilling(rate) for rate in rates]
