"""This package with a calibration and one of its parts off at a time: what each is worth in the model's output.

Every tensor is coded by itself, at a rate from the allocation or, where that is off, the same in all of them. The codec is
not counted, which is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nwc_core.codec import Codec
from nwc_core.decorrelate import Parts
from nwc_core.lossless import encode_lossless
from nwc_core.nwc_coder import NwcCoder
from nwc_workflows.allocate import Lossless, Measured, Unreached, allocate
from nwc_workflows.bench.rivals.rival import Coded, Need, Quantised, Subject
from nwc_workflows.block_statistics import BlockStatistics, tensor_statistics


@dataclass(frozen=True)
class OnePartOff:
    """At one rate.

    Attributes:
        what: is changed, in words.
        bits: per weight, over all coded tensors.
        parts: of the encoder that are at work.
        preset: of the codec.
        allocation: rates by one price of error.
        feedback: from column to column; without it, of H only the diagonal counts.
        hessian: of the inputs is used at all.
        rows: weights of the outputs are used.
    """

    what: str
    bits: float
    parts: Parts = field(default_factory=Parts)
    preset: str = "default"
    allocation: bool = True
    feedback: bool = True
    hessian: bool = True
    rows: bool = True
    name: str = "nwc-calibrated"
    packages: tuple[str, ...] = ("nwc",)
    needs: Need = "statistics"

    @property
    def setting(self) -> str:
        return f"{self.bits:g} bits, {self.what}"

    def reason_missing(self) -> str | None:
        return None

    def quantise(self, subject: Subject) -> Quantised:
        shipped = Codec.load("default")
        assert isinstance(shipped.coder, NwcCoder)
        codec = Codec.of(replace(shipped.coder, parts=self.parts), {})
        names = subject.matrices
        rates = allocate([self._measure(codec, subject, name) for name in names], self.bits).rates
        coded = {}
        for name, rate in zip(names, rates, strict=True):
            known = self._arguments(_statistics(subject, name))
            encoded = codec.encode(subject.state[name], rate, preset=self.preset, **known)
            coded[name] = Coded(codec.decode(encoded), encoded.nbytes)
        return subject.with_rest(coded)

    def _measure(self, codec: Codec, subject: Subject, name: str) -> Measured:
        """What the allocation knows of a tensor: nothing if that is off."""
        weight, found = subject.state[name], _statistics(subject, name)
        curve = codec.rate_curve(weight, bits=self.bits, **self._arguments(found))
        if curve is None:
            return Lossless(weight.numel(), encode_lossless(weight).nbytes)
        known = self.allocation and found is not None and found.rows is not None
        return curve if known else Unreached(weight.numel())

    def _arguments(self, found: BlockStatistics | None) -> dict[str, Any]:
        """Of the codec: what is known of a tensor, less what is off."""
        if found is None:
            return {}
        hessian, rows = found.hessian, found.rows
        if not self.hessian and not self.rows:
            return replace(found, hessian=None, rows=None).arguments()
        if rows is not None and not self.rows:
            rows = np.broadcast_to(rows.mean(1, keepdims=True), rows.shape).copy()
        if hessian is not None and not self.feedback:
            hessian = hessian * np.eye(hessian.shape[-1], dtype=np.float32)
        if hessian is not None and not self.hessian:
            mean = np.einsum("kii->k", hessian)[:, None] / hessian.shape[-1]  # tensors stay comparable
            hessian, rows = None, None if rows is None else rows * mean
        return replace(found, hessian=hessian, rows=rows).arguments()


def _statistics(subject: Subject, name: str) -> BlockStatistics | None:
    whole = subject.statistics.get(name)
    return None if whole is None else tensor_statistics(whole)


def parts_off(rates: Sequence[float]) -> list[OnePartOff]:
    """Everything on, then each part off, at all rates."""
    return [variant for rate in rates for variant in _variants(rate)]


def _variants(rate: float) -> list[OnePartOff]:
    whole = OnePartOff("all parts", rate)
    return [
        whole,
        replace(whole, what="equal rates in all tensors", allocation=False),
        replace(whole, what="all outputs alike", rows=False),
        replace(whole, what="no feedback, diagonal of H", feedback=False),
        replace(whole, what="no H, outputs weighted", hessian=False),
        replace(whole, what="equal steps", parts=Parts(weighted_steps=False)),
        replace(whole, what="neither H nor outputs, equal rates", hessian=False, rows=False, allocation=False),
        replace(whole, what="scalar quantiser", preset="scalar"),
        replace(whole, what="trellis of 256 states", preset="max"),
        replace(whole, what="neither bases nor transforms", parts=Parts(bases=False, transforms=False)),
        replace(whole, what="no scale contexts", parts=Parts(contexts=False)),
    ]
