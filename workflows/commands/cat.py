"""`nwc cat`: one tensor of an artifact as a file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from nwc_core.errors import UsageError
from nwc_workflows.commands.base_option import base_option
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.cat import Excerpt


@click.command()
@click.argument("artifact")
@click.argument("tensor")
@click.option("--rows", metavar="START:STOP", help="Rows of the first axis, such as 0:128; only their blocks are read.")
@click.option(
    "--to", "place", default="-", show_default=True, help="A .npy or .safetensors file; - is stdout, as .npy."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@base_option
@with_output
def cat(
    output: Output, artifact: str, base: str | None, tensor: str, rows: str | None, place: str, force: bool
) -> None:
    """Decode one TENSOR of ARTIFACT into a file."""
    import nwc_core as nwc
    from nwc_workflows.cat import excerpt, suffix_of, write_file

    suffix = suffix_of(place)
    if place == "-" and output.json:
        raise UsageError("to: standard output cannot carry both the tensor and JSON; name a file")
    if place == "-" and sys.stdout.isatty():
        raise UsageError("to: standard output is a terminal, which a tensor would garble; name a file, or use a pipe")
    with nwc.open(artifact, base=base) as opened:
        wanted = excerpt(opened, tensor, rows, suffix)
        if wanted.dtype != wanted.stored:
            output.note(
                f"{wanted.stored.torch_name} becomes {wanted.dtype.torch_name}, exactly: numpy has no such type"
            )
        if place == "-":
            _to_stdout(wanted)
            return
        where, size = write_file(wanted, place, force=force)
    data = {
        "tensor": wanted.name,
        "dtype": wanted.dtype.name,
        "shape": list(wanted.shape),
        "rows": [wanted.start, wanted.stop],
        "file": where,
        "bytes": size,
    }
    shape = "x".join(map(str, wanted.shape)) or "scalar"
    output.result(data, f"{where}: {name_text(wanted.name)}, {wanted.dtype.name} {shape}, {bytes_text(size)}")


def _to_stdout(wanted: Excerpt) -> None:
    try:
        for chunk in wanted.chunks():
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
