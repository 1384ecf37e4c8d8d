"""Many tensors in a few figures: means over them with confidence intervals, and codecs compared at equal error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nwc_workflows.bench.contenders import Contender
from nwc_workflows.bench.measure import Measurement
from nwc_workflows.bench.results import CodecBench, TensorResult
from nwc_workflows.bench.statistics import Interval, mean_interval, rate_at

BEST = "the better of them"


@dataclass(frozen=True)
class TensorSummary:
    """One contender at one setting over all tensors. `weighted` means are by the tensors' sizes, `plain` ones not.

    Attributes:
        label, wanted: the contender and the rate asked for; None where the contender took its own.
        bits: weighted mean of the rates.
        most_missed: the rate of the tensor that missed what was asked for by most, less that.
        gap_weighted, gap_plain: of `TensorResult.gap`.
        log2_distortion: weighted mean of log2(D / variance).
        side_bits, coder_bits: weighted means; None where unknown.
    """

    label: str
    wanted: float | None
    bits: float
    most_missed: float | None
    gap_weighted: Interval
    gap_plain: Interval
    log2_distortion: float
    side_bits: float | None
    coder_bits: float | None


@dataclass(frozen=True)
class Comparison:
    """Bits per weight that a contender saves against a baseline at equal mean squared error, over all tensors.

    Attributes:
        label, baseline: who is compared with whom; the baseline BEST takes whichever does better on each tensor.
        wanted: the contender's rate; None for the mean over all rates.
        weighted, plain: mean over tensors, by their sizes or not.
        saved: [tensors] by tensor.
    """

    label: str
    baseline: str
    wanted: float | None
    weighted: Interval
    plain: Interval
    saved: tuple[float, ...]


def summarise(bench: CodecBench, tensors: Sequence[TensorResult]) -> list[TensorSummary]:
    """One entry for each contender and rate, none without tensors."""
    if not tensors:
        return []
    sizes = [tensor.weights for tensor in tensors]

    def mean(values: Sequence[float]) -> float:
        return sum(map(math.prod, zip(values, sizes, strict=True))) / sum(sizes)

    def mean_if_known(points: Sequence[Measurement], of: Callable[[Measurement], float | None]) -> float | None:
        values = [value for value in map(of, points) if value is not None]
        return mean(values) if len(values) == len(sizes) else None

    out = []
    for contender in bench.contenders:
        for at in range(len(contender.settings(bench.rates))):
            points = [tensor.points[contender.label][at] for tensor in tensors]
            missed = [point.missed_by for point in points if point.missed_by is not None]
            gaps = [tensor.gap(point) for tensor, point in zip(tensors, points, strict=True)]
            out.append(
                TensorSummary(
                    label=contender.label,
                    wanted=points[0].wanted,
                    bits=mean([point.bits for point in points]),
                    most_missed=max(missed, key=abs, default=None),
                    gap_weighted=mean_interval(gaps, sizes),
                    gap_plain=mean_interval(gaps),
                    log2_distortion=mean(
                        [math.log2(p.mse / tensor.variance) for p, tensor in zip(points, tensors, strict=True)]
                    ),
                    side_bits=mean_if_known(points, lambda point: point.side_bits),
                    coder_bits=mean_if_known(points, lambda point: point.coder_bits),
                )
            )
    return out


def compare(bench: CodecBench, tensors: Sequence[TensorResult]) -> list[Comparison]:
    """Every contender of the first codec with those of every other: of the same preset, or all without presets."""
    if not tensors:
        return []
    out = []
    for contender in bench.groups[0]:
        if contender.own_rates:
            continue
        rivals = [_rivals(contender, group) for group in bench.groups[1:]]
        baselines = [(against[0].label, against) for against in rivals]
        if len(rivals) > 1:
            baselines.append((BEST, [rival for against in rivals for rival in against]))
        for baseline, against in baselines:
            saved = [_saved(tensor, contender, against, len(bench.rates)) for tensor in tensors]
            for at, wanted in enumerate(bench.rates):
                out.append(_over_tensors(contender.label, baseline, wanted, [row[at] for row in saved], tensors))
            means = [sum(row) / len(row) for row in saved]
            out.append(_over_tensors(contender.label, baseline, None, means, tensors))
    return out


def _rivals(contender: Contender, group: Sequence[Contender]) -> Sequence[Contender]:
    """The one with the same preset; where there is none, all of the codec's, of which the better one counts."""
    return [rival for rival in group if rival.preset == contender.preset] or group


def _saved(tensor: TensorResult, contender: Contender, against: Sequence[Contender], rates: int) -> list[float]:
    """[rates] bits per weight that the best of the others needs at the contender's error, less the contender's own."""
    saved = []
    for point in tensor.points[contender.label][:rates]:
        needed = [rate_at(point.mse, tensor.points[rival.label]) for rival in against]
        saved.append(min(filter(math.isfinite, needed), default=math.nan) - point.bits)
    return saved


def _over_tensors(
    label: str, baseline: str, wanted: float | None, saved: Sequence[float], tensors: Sequence[TensorResult]
) -> Comparison:
    """Means of what is known; a tensor without a rate at the contender's error takes no part."""
    known = [(value, tensor.weights) for value, tensor in zip(saved, tensors, strict=True) if math.isfinite(value)]
    values, sizes = [value for value, _ in known], [size for _, size in known]
    weighted, plain = mean_interval(values, sizes), mean_interval(values)
    return Comparison(label, baseline, wanted, weighted, plain, tuple(saved))
