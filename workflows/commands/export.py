"""`nwc export`: an artifact becomes a plain checkpoint that everything else loads."""

from __future__ import annotations

import re

import click

from nwc_workflows.commands.base_option import base_option
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, name_text

_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def _nbytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """A number of bytes such as 5GB or 500MiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    unit = _UNITS.get(found[2].removesuffix("b") + "b") if found else None
    nbytes = int(float(found[1]) * unit) if found and unit else 0
    if nbytes < 1:
        raise click.BadParameter(f"found {value!r}; wanted bytes, such as 5GB or 500MiB", ctx, param)
    return nbytes


@click.command()
@click.argument("artifact")
@click.argument("destination")
@click.option(
    "--max-shard-size", callback=_nbytes, default="5GB", show_default=True, help="Most bytes of tensors in one file."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16", "float64"]),
    help="Type of all floating-point weights; left out, each keeps its own.",
)
@base_option
@with_output
def export(
    output: Output, artifact: str, base: str | None, destination: str, max_shard_size: int, dtype: str | None
) -> None:
    """Write ARTIFACT as a plain checkpoint into DESTINATION: safetensors, its index if in shards, config and tokenizer.

    `nwc decompress` gives back the very files that there were; this gives files as transformers writes them.
    """
    import nwc_core as nwc
    from nwc_core.store import open_store
    from nwc_workflows.export import plan_export
    from nwc_workflows.float_types import BY_TORCH_NAME

    store = open_store(destination, "destination")
    with nwc.open(artifact, base=base) as opened:
        plan = plan_export(opened, max_shard_size, BY_TORCH_NAME[dtype] if dtype else None)
        total = sum(file.size for file in plan.weights) + sum(file.size for file in opened.manifest.files)
        with output.progress(total, "export") as progress:
            written = plan.write(opened, store, progress.advance)
        skipped = opened.manifest.skipped
    size = sum(file.size for file in written)
    data = {
        "destination": store.uri,
        "bytes": size,
        "shards": len(plan.weights),
        "files": [{"path": file.path, "size": file.size} for file in written],
        "skipped": [left_out.model_dump() for left_out in skipped],
    }
    for left_out in skipped:
        output.note(f"not in the artifact: {name_text(left_out.path)}: {left_out.reason}")
    output.result(
        data, f"{store.uri}: {count_text(len(written), 'file')}, {len(plan.weights)} of weights, {bytes_text(size)}"
    )
