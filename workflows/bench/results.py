"""The rate-distortion benchmark as data: what is measured, and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nwc_workflows.bench.contenders import Contender
from nwc_workflows.bench.measure import Measurement
from nwc_workflows.bench.sources import Source
from nwc_workflows.train import TrainingSource

# Rates compared at equal error are interpolated: a codec that needs more bits than the first must be known that far
# beyond the last rate.
BEYOND = 1.0

Points = dict[str, list[Measurement]]  # by a contender's label, in the order of its settings


@dataclass(frozen=True)
class CodecBench:
    """What is measured.

    Attributes:
        groups: contenders, one list for each codec. Those of the first are compared with the others at equal error.
        rates: in bits per weight, rising.
        max_weights: of a tensor that take part; None for all.
    """

    groups: Sequence[Sequence[Contender]]
    rates: Sequence[float]
    max_weights: int | None = None

    @property
    def contenders(self) -> list[Contender]:
        return [contender for group in self.groups for contender in group]

    def tensor_settings(self, contender: Contender) -> Sequence[float]:
        """Settings on real tensors: a rate more, BEYOND the last, for codecs that the first is compared with."""
        return contender.settings(self.rates if contender in self.groups[0] else [*self.rates, self.rates[-1] + BEYOND])


@dataclass(frozen=True)
class SourceResult:
    """A source's samples, coded.

    Attributes:
        shape: of the samples.
        points: what came out, by contender.
    """

    source: Source
    shape: tuple[int, int]
    points: Points

    def gap(self, measured: Measurement) -> float:
        """Bits per weight above the source's rate-distortion function."""
        return measured.bits - self.source.rate(measured.mse)


@dataclass(frozen=True)
class TensorResult:
    """A tensor of a checkpoint, coded.

    Attributes:
        checkpoint, name, dtype, shape: where it is from, and what.
        coded_weights: how many of its weights took part: all, or whole rows of them.
        variance: of these.
        points: what came out, by contender.
    """

    checkpoint: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    coded_weights: int
    variance: float
    points: Points

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def gap(self, measured: Measurement) -> float:
        """Bits per weight above 1/2 log2(variance / D): above Shannon's bound if the weights were independent Gaussians.

        Real weights are not: a codec that knows their structure can be below zero.
        """
        return measured.bits + 0.5 * math.log2(measured.mse / self.variance)


@dataclass(frozen=True)
class CodecResults:
    """All that a run found.

    Attributes:
        bench: what was asked for.
        sources, tensors: what was measured.
        checkpoints: where the tensors are from.
        lossless: "checkpoint/tensor" of the ones left out because a contender coded them without loss.
    """

    bench: CodecBench
    sources: Sequence[SourceResult]
    tensors: Sequence[TensorResult]
    checkpoints: Sequence[TrainingSource]
    lossless: Sequence[str]
