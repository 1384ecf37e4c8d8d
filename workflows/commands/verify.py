"""`nwc verify`: check every byte of an artifact."""

from __future__ import annotations

import click

from nwc_workflows.commands.base_option import base_option
from nwc_workflows.console import ExitCode, Output, with_output
from nwc_workflows.wording import count_text, name_text

_MAX_THREADS = 8  # each holds a payload and a decoded block, some 100 MB


@click.command()
@click.argument("artifact")
@click.option("--source", default=None, help="Compare with the checkpoint that it was made from, too.")
@base_option
@with_output
def verify(output: Output, artifact: str, base: str | None, source: str | None) -> int:
    """Check every digest of ARTIFACT and decode every tensor.

    With --source, also that lossless tensors equal the source's bit for bit, or differ as recorded where they were tuned
    after compression, and that the recorded errors are true.
    """
    import nwc_core as nwc
    from nwc_core.artifact.fetch import available_cores
    from nwc_core.encoded import LOSSY_CODERS
    from nwc_workflows.sources import open_checkpoint
    from nwc_workflows.verify import bound_of
    from nwc_workflows.verify import verify as run

    checkpoint = open_checkpoint(source) if source else None
    with nwc.open(artifact, base=base) as opened:
        manifest = opened.manifest
        total = manifest.counts.payload_bytes + manifest.codec.size
        total += sum(file.size for file in manifest.files) + sum(file.size for file in manifest.derived)
        with output.progress(total, "verify") as progress:
            problems = run(
                opened, checkpoint, threads=min(available_cores(), _MAX_THREADS), on_progress=progress.advance
            )
        near = bound_of(manifest)
        tuned = [] if near else list(dict.fromkeys(row.tensor for row in opened.index if row.tuned))
        inexact = {row.tensor for row in opened.index if row.coder in LOSSY_CODERS or row.mse > 0}
        exact = manifest.counts.tensors - len(inexact)
        data = {
            "artifact": opened.store.uri,
            "ok": not problems,
            "tensors": manifest.counts.tensors,
            "blocks": manifest.counts.blocks,
            "compared_with_source": source is not None,
            "tuned": tuned,
            "exact": exact,
            "problems": [{"where": problem.where, "message": str(problem.error)} for problem in problems],
        }
    for problem in problems:
        output.note(f"{name_text(problem.where)}: {problem.error}")
    if tuned:
        shown = ", ".join(map(name_text, tuned[:3])) + (" ..." if len(tuned) > 3 else "")
        output.note(
            f"{len(tuned)} tensors ({shown}) were tuned after compression: they differ from the source as much as recorded"
            if source
            else f"{len(tuned)} tensors ({shown}) were tuned after compression: they are not the source's"
        )
    compared = " and agree with the source" if source else ""
    exactly = "all" if exact == data["tensors"] else str(exact)
    compared += f"; {exactly} {'equal it' if source else 'are stored'} bit for bit"
    if near:
        compared += f", no float of the others is off by more than {near}"
    output.result(
        data,
        f"{data['artifact']}: {count_text(len(problems), 'problem')}"
        if problems
        else f"{data['artifact']}: all {data['tensors']} tensors ({data['blocks']} blocks) are intact{compared}",
    )
    return ExitCode.FAILED if problems else ExitCode.DONE
