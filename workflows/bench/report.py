"""The rate-distortion benchmark in words and as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from nwc_workflows.bench.codec import SEED
from nwc_workflows.bench.contenders import CodecContender, Contender
from nwc_workflows.bench.environment import environment
from nwc_workflows.bench.measure import Measurement
from nwc_workflows.bench.results import CodecBench, CodecResults, SourceResult, TensorResult
from nwc_workflows.bench.sheets import Part, Sheet
from nwc_workflows.bench.statistics import Interval
from nwc_workflows.bench.summary import Comparison, TensorSummary, compare, summarise
from nwc_workflows.wording import name_text


def report_parts(results: CodecResults) -> list[Part]:
    """Tables for people."""
    parts: list[Part] = []
    for result in results.sources:
        shape = " x ".join(map(str, result.shape))
        parts.append(f"{result.source.title}, {shape} samples; rates in bits per weight, all bytes counted")
        parts.append(Sheet(_SOURCE_HEADERS, _source_rows(results.bench, result)))
    if results.tensors:
        weights = sum(tensor.weights for tensor in results.tensors)
        taken = sum(tensor.coded_weights for tensor in results.tensors)
        coded = f"{weights:,} weights" if taken == weights else f"{taken:,} of {weights:,} weights"
        found = results.checkpoints
        names = ", ".join(name_text(c.name) for c in found) if len(found) <= 3 else f"{len(found)} checkpoints"
        parts.append(f"{len(results.tensors)} tensors of {names}, {coded}; means over tensors (95 % confidence)")
        summaries = summarise(results.bench, results.tensors)
        parts.append(Sheet(_TENSOR_HEADERS, list(map(_tensor_row, summaries))))
        comparisons = compare(results.bench, results.tensors)
        if comparisons:
            parts.append("Bits per weight saved at equal mean squared error, means over tensors (95 % confidence)")
            parts.append(Sheet(_COMPARISON_HEADERS, list(map(_comparison_row, comparisons))))
    if results.lossless:
        parts.append(f"left out, since coded without loss: {', '.join(map(name_text, results.lossless))}")
    return parts


def as_data(results: CodecResults) -> dict[str, Any]:
    """Everything as plain data, for JSON."""
    bench = results.bench
    codecs = [group[0] for group in bench.groups]
    return {
        "environment": environment(),
        "codecs": [
            {"name": c.name, "digest": c.codec.digest, "bytes": len(c.codec.to_bytes())}
            if isinstance(c, CodecContender)
            else {"name": c.name}
            for c in codecs
        ],
        "rates": list(bench.rates),
        "seed": SEED,
        "max_weights": bench.max_weights,
        "sources": [_source_data(bench, result) for result in results.sources],
        "checkpoints": [{"name": c.name, "sha256": c.sha256} for c in results.checkpoints],
        "coded_losslessly": list(results.lossless),
        "tensors": [_tensor_data(bench, result) for result in results.tensors],
        "summary": [asdict(summary) for summary in summarise(bench, results.tensors)],
        "comparison": [asdict(comparison) for comparison in compare(bench, results.tensors)],
    }


_SOURCE_HEADERS = (
    *("contender", "wanted", "bits", "missed by", "D", "Shannon", "gap", "side", "coder", "misfit"),
    *("enc M/s", "dec M/s"),
)
_TENSOR_HEADERS = ("contender", "wanted", "bits", "most missed", "D, dB", "gap, by size", "gap, plain", "side", "coder")
_COMPARISON_HEADERS = ("contender", "against", "wanted", "saved, by size", "saved, plain", "least tensor")


def _source_rows(bench: CodecBench, result: SourceResult) -> list[list[object]]:
    weights = math.prod(result.shape)
    return [
        [
            *(contender.label, *_wanted(p.wanted, p.bits, p.missed_by)),
            *(f"{p.mse:.3e}", f"{result.source.rate(p.mse):.4f}", f"{result.gap(p):.4f}"),
            *(_known(p.side_bits), _known(p.coder_bits), _known(p.misfit_bits)),
            *(_speed(weights, p.encode_seconds), _speed(weights, p.decode_seconds)),
        ]
        for contender in bench.contenders
        for p in result.points[contender.label]
    ]


def _tensor_row(summary: TensorSummary) -> list[object]:
    return [
        *(summary.label, *_wanted(summary.wanted, summary.bits, summary.most_missed)),
        f"{10 * math.log10(2) * summary.log2_distortion:.2f}",
        *(_interval(summary.gap_weighted), _interval(summary.gap_plain)),
        *(_known(summary.side_bits), _known(summary.coder_bits)),
    ]


def _comparison_row(comparison: Comparison) -> list[object]:
    return [
        *(comparison.label, comparison.baseline, "all" if comparison.wanted is None else f"{comparison.wanted:g}"),
        *(_interval(comparison.weighted), _interval(comparison.plain)),
        f"{min(filter(math.isfinite, comparison.saved), default=math.nan):.4f}",
    ]


def _wanted(wanted: float | None, bits: float, missed: float | None) -> tuple[str, str, str]:
    return "own" if wanted is None else f"{wanted:g}", f"{bits:.4f}", "" if missed is None else f"{missed:+.4f}"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def _known(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.4f}"


def _speed(weights: int, seconds: float | None) -> str:
    return "" if seconds is None else f"{weights / seconds / 1e6:.1f}"


def _source_data(bench: CodecBench, result: SourceResult) -> dict[str, Any]:
    return {
        "name": result.source.name,
        "title": result.source.title,
        "shape": list(result.shape),
        "points": [
            {
                **_named(contender),
                **_point_data(point),
                "shannon_bits": result.source.rate(point.mse),
                "gap": result.gap(point),
            }
            for contender in bench.contenders
            for point in result.points[contender.label]
        ],
    }


def _tensor_data(bench: CodecBench, result: TensorResult) -> dict[str, Any]:
    return {
        "checkpoint": result.checkpoint,
        "name": result.name,
        "dtype": result.dtype,
        "shape": list(result.shape),
        "weights": result.weights,
        "coded_weights": result.coded_weights,
        "variance": result.variance,
        "points": [
            {**_named(contender), **_point_data(point), "gap": result.gap(point)}
            for contender in bench.contenders
            for point in result.points[contender.label]
        ],
    }


def _named(contender: Contender) -> dict[str, Any]:
    return {"contender": contender.label, "codec": contender.name, "preset": contender.preset}


def _point_data(point: Measurement) -> dict[str, Any]:
    return {**asdict(point), "coder_bits": point.coder_bits, "misfit_bits": point.misfit_bits}
