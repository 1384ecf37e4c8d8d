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
from nwc_workflows.inspect import TensorSummary, artifact_nbytes, totals
from nwc_workflows.recovery.rewrite import RECOVERED
from nwc_workflows.report.artifact_tables import coders_table, objects_table, skipped_table, tensors_table
from nwc_workflows.report.content import Fact, Figure, Heading, Price, Saved, Table
from nwc_workflows.report.heat_map import LayerMaps, layer_maps
from nwc_workflows.report.job import job_facts
from nwc_workflows.report.plots import Plot, Series, shannon_gaussian
from nwc_workflows.wording import bytes_text, name_text

_LOSSY = (*LOSSY_CODERS, EXACT_DELTA)  # in whose tensors an error is no surprise


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
    own = [t for t in tensors if t.copy_of is None]  # copies have no bytes, and no rate
    lossy = [t for t in tensors if t.mse > 0]
    relative = bool(lossy) and all(t.power is not None for t in lossy)
    placed = [t for t in own if t.mse > 0 and t.power and math.isfinite(t.mse)]
    return ArtifactReport(
        heading=_heading(artifact, tensors, everything, price),
        plot=_plot(placed) if relative and placed else None,
        no_plot="" if relative or not lossy else _NO_PLOT,
        maps=tuple(layer_maps(own)),
        coders=coders_table(tensors, everything),
        objects=objects_table(sizes),
        exact=_exact(tensors, RECOVERED in artifact.manifest.job),
        skipped=skipped_table(artifact.manifest.skipped),
        tensors=tensors_table(tensors, everything, relative),
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
