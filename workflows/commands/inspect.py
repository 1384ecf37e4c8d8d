"""`nwc inspect`: what an artifact holds, or how two differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nwc_core.errors import UsageError
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text

if TYPE_CHECKING:
    from nwc_core.artifact.reader import Artifact


@click.command()
@click.argument("artifact")
@click.argument("other", required=False)
@click.option("--flat", is_flag=True, help="One line for each tensor, instead of the tree.")
@click.option("--depth", type=click.IntRange(min=1), help="Levels of the tree to show; what is below is summed up.")
@click.option("--relative", is_flag=True, help="Errors relative to the weights; reads and decodes all of them.")
@click.option("--all", "everything", is_flag=True, help="With OTHER: also the tensors that are the same.")
@with_output
def inspect(
    output: Output,
    artifact: str,
    other: str | None,
    flat: bool,
    depth: int | None,
    relative: bool,
    everything: bool,
) -> None:
    """Show the tensors of ARTIFACT with their bits and errors; with OTHER, how the two artifacts differ.

    Reads no weights. Layers that are alike share a line. Bits are per weight.
    """
    import nwc_core as nwc

    if flat and depth is not None:
        raise UsageError("depth: a flat list has none; leave out --flat or --depth")
    if other is None and everything:
        raise UsageError("all: only with two artifacts")
    if other is not None and relative:
        raise UsageError("relative: only with one artifact")
    with nwc.open(artifact) as opened:
        if other is None:
            _show(output, opened, flat, depth, relative)
        else:
            with nwc.open(other) as second:
                _compare(output, opened, second, flat, depth, everything)


def _show(output: Output, opened: Artifact, flat: bool, depth: int | None, relative: bool) -> None:
    from nwc_workflows.inspect import artifact_nbytes, summarise, totals, with_power
    from nwc_workflows.inspect_text import print_list, print_tensors

    tensors = summarise(opened)
    sizes = artifact_nbytes(opened)
    manifest = opened.manifest
    if relative:
        with output.progress(sum(t.nbytes for t in tensors if t.mse > 0), "decode") as progress:
            tensors = with_power(opened, tensors, progress.advance)
    if flat:
        print_list(output, tensors, sizes["payloads"])
    elif not output.json:
        print_tensors(tensors, sizes, depth)
    weight_bytes = sum(size for kind, size in sizes.items() if kind != "files")
    source_bytes = sum(file.size for file in manifest.weight_files)
    bits = 8 * weight_bytes / max(1, manifest.counts.weights)
    data = {
        "artifact": opened.store.uri,
        "tensors": [
            {
                "name": t.name,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "coders": list(t.coders),
                "blocks": t.blocks,
                "bytes": t.nbytes,
                "side_bytes": t.side_nbytes,
                "bits_per_weight": t.bits_per_weight,
                "mse": t.mse,
                **({"copy_of": t.copy_of} if t.copy_of is not None else {}),
                **({"relative_error": totals([t]).relative_error if t.mse > 0 else 0.0} if relative else {}),
            }
            for t in tensors
        ],
        "bytes": sizes,
        "source_bytes": source_bytes,
        "weights": manifest.counts.weights,
        "bits_per_weight": bits,
        "job": manifest.job,
        "fingerprint": manifest.fingerprint,
        "files": [file.path for file in manifest.files],
        "skipped": [skipped.model_dump() for skipped in manifest.skipped],
    }
    output.result(
        data,
        f"{manifest.counts.weights:,} weights, {bytes_text(source_bytes)} -> {bytes_text(weight_bytes)}, {bits:.3f} "
        f"bits per weight, index and codec included; {len(manifest.files)} other files, {bytes_text(sizes['files'])}",
    )


def _compare(output: Output, a: Artifact, b: Artifact, flat: bool, depth: int | None, everything: bool) -> None:
    from nwc_workflows.compare import compare
    from nwc_workflows.compare_text import comparison_data, list_pairs, notes, print_pairs
    from nwc_workflows.inspect import artifact_nbytes

    found = compare(a, b)
    shown = [pair for pair in found.tensors if everything or pair.status != "same"]
    if flat:
        list_pairs(output, shown)
    elif not output.json and shown:
        print_pairs(shown, depth)
    sides: list[dict[str, Any]] = []
    for artifact in (a, b):
        nbytes = sum(size for kind, size in artifact_nbytes(artifact).items() if kind != "files")
        weights = artifact.manifest.counts.weights
        sides.append(
            {
                "artifact": artifact.store.uri,
                "weights": weights,
                "weight_bytes": nbytes,
                "bits_per_weight": 8 * nbytes / max(1, weights),
                "fingerprint": artifact.manifest.fingerprint,
            }
        )
    lines = notes(found)
    for letter, side in zip("AB", sides, strict=True):
        lines.append(
            f"{letter}: {side['artifact']}: {side['weights']:,} weights, {bytes_text(side['weight_bytes'])}, "
            f"{side['bits_per_weight']:.3f} bits per weight"
        )
    counts = ", ".join(f"{count} {status}" for status, count in found.counts().items())
    lines.append(f"{count_text(len(found.tensors), 'tensor')}: {counts}" if counts else "no tensors")
    output.result({"a": sides[0], "b": sides[1], **comparison_data(found)}, "\n".join(lines))
