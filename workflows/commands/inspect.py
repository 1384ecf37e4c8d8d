"""`nwc inspect`: what an artifact holds."""

from __future__ import annotations

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, name_text


@click.command()
@click.argument("artifact")
@with_output
def inspect(output: Output, artifact: str) -> None:
    """List the tensors of ARTIFACT with their bits and errors; reads no weights."""
    import nwc_core as nwc
    from nwc_workflows.inspect import artifact_nbytes, summarise

    with nwc.open(artifact) as opened:
        tensors = summarise(opened)
        sizes = artifact_nbytes(opened)
        manifest = opened.manifest
        uri = opened.store.uri
    payloads = max(1, sizes["payloads"])
    output.table(
        ["tensor", "dtype", "shape", "coder", "blocks", "bits/weight", "rms error", "bytes", "share"],
        [
            [
                *(name_text(t.name), t.dtype, "x".join(map(str, t.shape)) or "scalar", "+".join(t.coders), t.blocks),
                f"{t.bits_per_weight:.3f}" if t.numel else "0",
                f"{t.mse**0.5:.3g}",
                t.nbytes,
                f"{100 * t.nbytes / payloads:.1f} %",
            ]
            for t in tensors
        ],
    )
    weight_bytes = sum(size for kind, size in sizes.items() if kind != "files")
    source_bytes = sum(file.size for file in manifest.weight_files)
    bits = 8 * weight_bytes / max(1, manifest.counts.weights)
    data = {
        "artifact": uri,
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
