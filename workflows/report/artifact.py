"""The report on an artifact: what it takes, tensor by tensor, and what that costs in error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version

from nwc_core.artifact.reader import Artifact
from nwc_core.encoded import LOSSY_CODERS
from nwc_workflows.inspect import TensorSummary, artifact_nbytes, summarise, totals, with_power
from nwc_workflows.inspect_text import shape_text
from nwc_workflows.report.layers import heat_maps
from nwc_workflows.report.page import Card, Cell, Facts, Page, Plot, Section, Table
from nwc_workflows.report.plots import Series, chart
from nwc_workflows.wording import bytes_text, name_text

_GB = 1e9
_DB_PER_BIT = 20 * math.log10(2)
_SCALAR_GAP = 0.5 * math.log2(math.pi * math.e / 6)  # bits; of an entropy-coded uniform quantiser at high rate
_BITS_SPAN, _DECIBEL_SPAN = 0.5, 3.0  # colours that are far apart stand for no less than that
_LEAST_AREA, _MOST_AREA = 12.0, 260.0


def artifact_page(
    artifact: Artifact,
    price: float,
    *,
    read_weights: bool = True,
    on_progress: Callable[[int], None] = lambda nbytes: None,
) -> Page:
    """Gather it.

    Args:
        artifact: an open one.
        price: of a GB and month.
        read_weights: whether tensors that are coded lossily are decoded: without that errors are not known as parts of weights.
        on_progress: told of coded bytes that were read.

    Raises:
        IntegrityError, FormatError: a block is damaged.
        UsageError: matplotlib is not installed.
    """
    tensors = summarise(artifact)
    if read_weights:
        tensors = with_power(artifact, tensors, on_progress)
    manifest, sizes = artifact.manifest, artifact_nbytes(artifact)
    weight_nbytes = sum(size for kind, size in sizes.items() if kind != "files")
    source = sum(file.size for file in manifest.weight_files)
    lossy = [t for t in tensors if _is_lossy(t)]
    sections: list[Section] = []
    if read_weights and lossy and all(t.power for t in lossy):
        sections.append(_rate_distortion(lossy))
    sections += heat_maps(
        "Bits per weight, layer by layer",
        [(t.name, t) for t in lossy],
        lambda t: t.bits_per_weight,
        lambda bits: f"{bits:.2f}",
        _said,
        "Matrices that are coded lossily. Arrow keys walk through the cells.",
        _BITS_SPAN,
    )
    if read_weights:
        sections += heat_maps(
            "Error, layer by layer",
            [(t.name, t) for t in lossy],
            _decibels,
            lambda decibels: f"{decibels:.1f}",
            _said,
            "Mean squared error over mean squared weight, dB: less is better.",
            _DECIBEL_SPAN,
        )
    sections.append(_table(tensors))
    sections.append(_facts(artifact, tensors, sizes))
    if manifest.skipped:
        rows = [(Cell(s.path), Cell(bytes_text(s.size), s.size), Cell(s.reason)) for s in manifest.skipped]
        sections.append(Table("Left out", ("file", "bytes", "why"), rows, frozenset({1})))
    return Page(
        artifact.store.uri.rstrip("/").rpartition("/")[2] or artifact.store.uri,
        f"{artifact.store.uri}: {len(tensors):,} tensors, {manifest.counts.weights:,} weights",
        _cards(artifact, tensors, source, weight_nbytes, price),
        sections,
        f"Made by nwc {version('nwc')}. All sizes are bytes that are stored; index, codec and manifest are in them.",
    )


def _is_lossy(tensor: TensorSummary) -> bool:
    return any(coder in LOSSY_CODERS for coder in tensor.coders) and tensor.mse > 0 and tensor.copy_of is None


def _decibels(tensor: TensorSummary) -> float | None:
    return 10 * math.log10(tensor.mse / tensor.power) if tensor.mse > 0 and tensor.power else None


def _said(tensor: TensorSummary) -> str:
    decibels = _decibels(tensor)
    error = "" if decibels is None else f", error {decibels:.1f} dB"
    bits, size = f"{tensor.bits_per_weight:.3f} bits per weight", bytes_text(tensor.nbytes)
    return f"{name_text(tensor.name)}, {shape_text(tensor.shape)}: {bits}{error}, {size}"


def _cards(artifact: Artifact, tensors: Sequence[TensorSummary], source: int, nbytes: int, price: float) -> list[Card]:
    saved = source - nbytes
    bits = 8 * nbytes / max(1, artifact.manifest.counts.weights)
    month = price * saved / _GB
    cards = [
        Card("weights before", bytes_text(source)),
        Card("weights now", bytes_text(nbytes), f"{source / max(1, nbytes):.2f} times smaller"),
        Card("bits per weight", f"{bits:.3f}", "everything counted"),
        Card("saved", bytes_text(saved), f"{month:,.2f} a month at {price:g} a GB" if month >= 0.01 else ""),
    ]
    of = totals(tensors)
    if of.relative_error is not None:
        decibels = 20 * math.log10(of.relative_error) if of.relative_error > 0 else -math.inf
        cards.append(
            Card(
                "error of the weights",
                f"{decibels:.1f} dB",
                f"{100 * of.relative_error:.2g} % of their root mean square",
            )
        )
    return cards


def _rate_distortion(lossy: Sequence[TensorSummary]) -> Plot:
    most = max(t.numel for t in lossy)
    bits = [t.bits_per_weight for t in lossy]
    ends = [max(0.0, min(bits) - 0.3), max(bits) + 0.3]
    areas = [max(_LEAST_AREA, _MOST_AREA * t.numel / most) for t in lossy]
    decibels = [-(_decibels(t) or 0.0) for t in lossy]
    series = [
        Series("tensors, by size", bits, decibels, sizes=areas),
        Series("Shannon's bound, independent Gaussian weights", ends, [_DB_PER_BIT * bit for bit in ends], theory=True),
        Series(
            "the same for uniform scalar quantisation and ideal entropy coding",
            ends,
            [_DB_PER_BIT * (bit - _SCALAR_GAP) for bit in ends],
            theory=True,
        ),
    ]
    above = sum(d > _DB_PER_BIT * b for d, b in zip(decibels, bits, strict=True))
    note = (
        "Each circle is a tensor, its area the number of weights; higher is better. Real weights are neither independent nor "
        f"all alike: what the codec knows of that lifts {above} of {len(lossy)} tensors above the bound for weights that are."
    )
    alt = f"Signal-to-noise ratio of {len(lossy)} tensors over their bits per weight, beside Shannon's bound"
    return Plot("Rate and distortion", chart(series, "bits per weight", "signal to noise, dB", alt), note)


def _table(tensors: Sequence[TensorSummary]) -> Table:
    known = any(t.power is not None for t in tensors)
    whole = max(1, sum(t.nbytes for t in tensors))
    most = max((t.nbytes for t in tensors), default=1) / whole
    error = "error, dB" if known else "rms error"
    headers = ("tensor", "coded as", "bits per weight", error, "bytes", "share", "weights", "type", "shape")
    rows = []
    for t in tensors:
        decibels, rms, share = _decibels(t), math.sqrt(t.mse), t.nbytes / whole
        rows.append(
            [
                Cell(name_text(t.name)),
                Cell("+".join(t.coders) if t.copy_of is None else f"as {name_text(t.copy_of)}"),
                Cell(f"{t.bits_per_weight:.3f}", t.bits_per_weight) if t.numel else Cell(""),
                Cell("" if decibels is None else f"{decibels:.1f}", decibels) if known else Cell(f"{rms:.3g}", rms),
                Cell(bytes_text(t.nbytes), t.nbytes),
                Cell(f"{100 * share:.1f} %", share, share / most if most else 0.0),
                Cell(f"{t.numel:,}", t.numel),
                Cell(t.dtype),
                Cell(shape_text(t.shape)),
            ]
        )
    return Table("Tensors", headers, rows, frozenset(range(2, 7)), "What is not coded by nwc is stored bit for bit.")


def _facts(artifact: Artifact, tensors: Sequence[TensorSummary], sizes: dict[str, int]) -> Facts:
    manifest = artifact.manifest
    exact = [t for t in tensors if t.mse == 0]
    pairs = [(kind, bytes_text(size)) for kind, size in sizes.items() if size]
    pairs.append(
        ("bit for bit", f"{len(exact):,} of {len(tensors):,} tensors, {sum(t.numel for t in exact):,} weights")
    )
    pairs += [
        (key.replace("_", " "), f"{value:g}" if isinstance(value, float) else str(value))
        for key, value in manifest.job.items()
    ]
    if manifest.base is not None:
        pairs.append(("base is at", manifest.base.location or "not said"))
    pairs += [
        ("weight file", f"{name_text(file.path)}, {bytes_text(file.size)}") for file in manifest.weight_files[:20]
    ]
    if len(manifest.weight_files) > 20:
        pairs.append(("weight files more", f"{len(manifest.weight_files) - 20:,}"))
    pairs += [("kept as it is", f"{name_text(file.path)}, {bytes_text(file.size)}") for file in manifest.files]
    pairs.append(("fingerprint", manifest.fingerprint))
    return Facts("What it is made of", pairs)
