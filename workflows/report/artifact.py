"""What a report of an artifact says: all from its manifest and index, and from the original weights if they are at hand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from nwc_core.artifact.reader import Artifact
from nwc_core.codec import Codec
from nwc_core.encoded import EXACT_DELTA, LOSSY_CODERS
from nwc_workflows.inspect import TensorSummary, Totals, artifact_nbytes, totals
from nwc_workflows.inspect_text import shape_text
from nwc_workflows.recovery.rewrite import RECOVERED
from nwc_workflows.report.content import Cell, Column, Fact, Figure, Heading, Price, Saved, Table, bars, number
from nwc_workflows.report.heat_map import LayerMaps, layer_maps
from nwc_workflows.report.job import job_facts
from nwc_workflows.report.plots import Plot, Series, shannon_gaussian
from nwc_workflows.wording import bytes_text, name_text

_LOSSY = (*LOSSY_CODERS, EXACT_DELTA)  # in whose tensors an error is no surprise
_CODERS = {
    "nwc": "lossy: learned transform, trellis, entropy model",
    "nwc-delta": "lossy: the difference to the base",
    "exact-delta": "what the base has, and what differs from it, without further loss",
    "float": "without loss: entropy tables for floats",
    "zstd": "without loss: Zstandard",
    "raw": "without loss: as it is",
}
_OBJECTS = {
    "payloads": "coded tensors",
    "index": "index of all blocks",
    "codec": "the codec itself",
    "manifest": "manifest",
    "files": "other files of the checkpoint",
}


@dataclass(frozen=True)
class ArtifactReport:
    """All that is said of an artifact. Parts that there is nothing to say in are empty.

    Attributes:
        heading: summary.
        plot: error against rate, a point for each tensor; None without relative errors.
        no_plot: why there is none; "" if there is one, or nothing was lost.
        maps: layer by layer.
        coders: how tensors are coded.
        objects: what the bytes are.
        exact: what was stored without loss, in a sentence.
        skipped: files of the checkpoint that are not there, and why.
        tensors: all.
    """

    heading: Heading
    plot: Plot | None
    no_plot: str
    maps: tuple[LayerMaps, ...]
    coders: Table
    objects: Table
    exact: str
    skipped: Table | None
    tensors: Table


def gather_artifact(artifact: Artifact, tensors: Sequence[TensorSummary], price: Price) -> ArtifactReport:
    """Put it together.

    Args:
        artifact: open.
        tensors: from `nwc_workflows.inspect.summarise`, with their `power` where that is known.
        price: of storage.
    """
    sizes = artifact_nbytes(artifact)
    everything = sum(size for kind, size in sizes.items() if kind != "files")
    lossy = [t for t in tensors if t.mse > 0]
    relative = bool(lossy) and all(t.power for t in lossy)
    return ArtifactReport(
        heading=_heading(artifact, tensors, everything, price),
        plot=_plot(lossy) if relative else None,
        no_plot="" if relative or not lossy else _NO_PLOT,
        maps=tuple(layer_maps(tensors)),
        coders=_coders(tensors, everything),
        objects=_objects(sizes),
        exact=_exact(tensors, RECOVERED in artifact.manifest.job),
        skipped=_skipped(artifact),
        tensors=_tensors(tensors, everything, relative),
    )


_NO_PLOT = (
    "The index has absolute errors alone. To plot them relative to the weights, beside Shannon’s bound, give the checkpoint "
    "that the artifact was made from:"
)


def _heading(artifact: Artifact, tensors: Sequence[TensorSummary], nbytes: int, price: Price) -> Heading:
    manifest = artifact.manifest
    saved = Saved(sum(file.size for file in manifest.weight_files), nbytes, price)
    weights = manifest.counts.weights
    bits = 8 * nbytes / max(1, weights)
    figures = list(saved.figures())
    figures.insert(2, Figure(f"{bits:.3f}", "bits per weight", "index, codec and manifest counted"))
    error = totals(tensors).relative_error
    if error is not None and 0 < error < math.inf:
        figures.append(
            Figure(f"{20 * math.log10(error):.1f} dB", "relative squared error", "of all lossy tensors together")
        )
    name = artifact.store.uri.rstrip("/").rpartition("/")[2]
    facts = [
        Fact("Weights", f"{weights:,} in {manifest.counts.tensors:,} tensors, {manifest.counts.blocks:,} blocks"),
        *job_facts(manifest.job, _codec_text(artifact)),
    ]
    if manifest.base is not None:
        facts.append(
            Fact("Base", f"{name_text(manifest.base.location)}, needed to read it", manifest.base.manifest_sha256)
        )
    files = ", ".join(name_text(file.path) for file in manifest.weight_files[:3])
    more = len(manifest.weight_files) - 3
    facts.append(Fact("Weight files before", f"{files}{f' and {more:,} more' if more > 0 else ''}"))
    facts.append(Fact("Fingerprint", "", manifest.fingerprint))
    return Heading("artifact", name, artifact.store.uri, f"{saved.lead}.", tuple(figures), tuple(facts))


def _codec_text(artifact: Artifact) -> str:
    digest = artifact.manifest.codec.sha256
    for name in Codec.available():
        shipped = resources.files("nwc_core.codecs").joinpath(f"{name}.safetensors").read_bytes()
        if hashlib.sha256(shipped).hexdigest() == digest:
            return f"{name}, which nwc ships, {bytes_text(artifact.manifest.codec.size)} of this artifact"
    return f"one of its own, {bytes_text(artifact.manifest.codec.size)}"


def _plot(lossy: Sequence[TensorSummary]) -> Plot:
    found = sorted(((t.bits_per_weight, _decibel(t), t) for t in lossy), key=lambda point: point[:2])
    rates = [bits for bits, _, _ in found]
    bound_x, bound_y = shannon_gaussian(rates)
    tips = tuple(f"{name_text(t.name)}: {bits:.3f} bits per weight, {error:.2f} dB" for bits, error, t in found)
    return Plot(
        "rate-distortion",
        "Relative squared error against bits per weight, a point for each lossy tensor",
        "bits per weight",
        "relative squared error, dB",
        (Series("a lossy tensor", tuple(rates), tuple(error for _, error, _ in found), tips, line=""),),
        *("Shannon’s bound for a Gaussian", bound_x, bound_y),
        least=(1.0, 12.0),
        note="Error is relative to the mean square of the weights; lower left is better. Weights of a structure that the "
        "codec knows can lie below the bound, which is that of independent Gaussian numbers; side information weighs on "
        "small tensors.",
    )


def _decibel(tensor: TensorSummary) -> float:
    assert tensor.power
    return 10 * math.log10(tensor.mse / tensor.power)


def _coders(tensors: Sequence[TensorSummary], everything: int) -> Table:
    groups: dict[str, list[TensorSummary]] = {}
    for tensor in tensors:
        groups.setdefault("+".join(tensor.coders), []).append(tensor)
    found = sorted(((coder, totals(of)) for coder, of in groups.items()), key=lambda group: -group[1].nbytes)
    lengths = bars([of.nbytes for _, of in found])
    rows = tuple(
        (
            Cell(coder),
            Cell(_coder_text(coder, of)),
            number(of.tensors, ",d"),
            number(of.numel, ",d"),
            number(of.bits_per_weight if of.numel else None, ".3f"),
            Cell(bytes_text(of.nbytes), of.nbytes),
            Cell(f"{100 * of.nbytes / max(1, everything):.1f} %", of.nbytes, bar),
        )
        for (coder, of), bar in zip(found, lengths, strict=True)
    )
    columns = (
        *(Column("Coder", code=True), Column("What it does", words=True)),
        *(Column(label, number=True) for label in ("Tensors", "Weights", "Bits", "Bytes", "Share of weights’ bytes")),
    )
    return Table("coders", "How the tensors are coded", columns, rows, sortable=False)


def _coder_text(coder: str, of: Totals) -> str:
    text = _CODERS.get(coder, "several, by block")
    # Bounded relative errors, and tuning, change weights before a lossless coder gets them.
    return text.replace("without loss:", "changed, then without loss:") if of.rms_error else text


def _objects(sizes: dict[str, int]) -> Table:
    lengths = bars(list(sizes.values()))
    rows = tuple(
        (
            Cell(_OBJECTS[kind]),
            Cell(bytes_text(size), size),
            Cell(f"{100 * size / sum(sizes.values()):.1f} %", size, bar),
        )
        for (kind, size), bar in zip(sizes.items(), lengths, strict=True)
        if size
    )
    columns = (Column("What"), Column("Bytes", number=True), Column("Share", number=True))
    return Table("objects", "What takes how many bytes", columns, rows, sortable=False)


def _exact(tensors: Sequence[TensorSummary], tuned: bool) -> str:
    exact = [t for t in tensors if t.mse == 0]
    if not exact:
        return ""
    of = totals(exact)
    if len(exact) == len(tensors):
        return f"All {of.tensors:,} tensors are stored bit for bit."
    text = f"{of.tensors:,} of {len(tensors):,} tensors are stored bit for bit: {of.numel:,} weights in {bytes_text(of.nbytes)}"
    changed = sum(t.mse > 0 and not any(coder in _LOSSY for coder in t.coders) for t in tensors)
    return f"{text}; {changed:,} more were tuned after compression." if changed and tuned else f"{text}."


def _skipped(artifact: Artifact) -> Table | None:
    found = artifact.manifest.skipped
    if not found:
        return None
    rows = tuple((Cell(name_text(s.path)), Cell(bytes_text(s.size), s.size), Cell(s.reason)) for s in found)
    columns = (Column("File", code=True), Column("Bytes", number=True), Column("Why", words=True))
    return Table("skipped", "Files of the checkpoint that the artifact does not hold", columns, rows)


def _tensors(tensors: Sequence[TensorSummary], everything: int, relative: bool) -> Table:
    columns = (
        *(Column("Tensor", code=True), Column("Shape", code=True), Column("Type"), Column("Coder")),
        *(Column("Weights", number=True), Column("Bits", number=True, note="per weight"), Column("Bytes", number=True)),
        *(Column("Share", number=True, note="of all bytes that hold weights"),),
        Column("Error", number=True, note=_ERROR_NOTES[relative]),
    )
    lengths = bars([t.nbytes for t in tensors])
    rows = tuple(
        (
            *(Cell(name_text(t.name)), Cell(shape_text(t.shape)), Cell(t.dtype), Cell("+".join(t.coders))),
            *(number(t.numel, ",d"), number(t.bits_per_weight if t.numel else None, ".3f")),
            *(
                Cell(bytes_text(t.nbytes), t.nbytes),
                Cell(f"{100 * t.nbytes / max(1, everything):.2f} %", t.nbytes, bar),
            ),
            _error(t, relative),
        )
        for t, bar in zip(tensors, lengths, strict=True)
    )
    return Table("tensors", "All tensors", columns, rows, search="Find tensors")


_ERROR_NOTES = {True: "root mean square, relative to that of the weights", False: "root mean square"}


def _error(tensor: TensorSummary, relative: bool) -> Cell:
    if not tensor.mse:
        return Cell("exact", 0.0, tone="quiet")
    of = totals([tensor])
    if not relative or of.relative_error is None:
        return Cell(f"{of.rms_error:.3g}", of.rms_error)
    return Cell(f"{100 * of.relative_error:#.3g}".rstrip(".") + " %", of.relative_error)
