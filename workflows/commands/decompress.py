"""`nwc decompress`: an artifact becomes a checkpoint again."""

from __future__ import annotations

import click

from nwc_workflows.commands.base_option import base_option
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, name_text


@click.command()
@click.argument("artifact")
@click.argument("destination")
@base_option
@with_output
def decompress(output: Output, artifact: str, base: str | None, destination: str) -> None:
    """Write the checkpoint that ARTIFACT was made from into DESTINATION: same files, same shards, same types."""
    import nwc_core as nwc
    from nwc_core.store import open_store
    from nwc_workflows.decompress import decompress as run

    store = open_store(destination, "destination")
    with nwc.open(artifact, base=base) as opened:
        manifest = opened.manifest
        total = sum(file.size for file in manifest.weight_files) + sum(file.size for file in manifest.files)
        with output.progress(total, "decompress") as progress:
            restored = run(opened, store, on_progress=progress.advance)
    size = sum(file.size for file in restored)
    data = {
        "destination": store.uri,
        "bytes": size,
        "files": [{"path": file.path, "size": file.size} for file in restored],
        "skipped": [skipped.model_dump() for skipped in manifest.skipped],
    }
    for skipped in manifest.skipped:
        output.note(f"not in the artifact: {name_text(skipped.path)}: {skipped.reason}")
    output.result(data, f"{store.uri}: {count_text(len(restored), 'file')}, {bytes_text(size)}")
