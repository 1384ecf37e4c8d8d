"""`nwc bench lossless`: size and speed of lossless coding beside Zstandard and ZipNN."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from nwc_workflows.commands.bench_options import finish, new_folder, out_option
from nwc_workflows.console import Output, with_output


@click.command()
@click.argument("checkpoints", nargs=-1, required=True)
@click.option(
    "--cast", type=click.Choice(["float16", "bfloat16"]), default=None, help="Round float32 tensors to this type first."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Of which the fastest counts.")
@out_option
@with_output
def lossless(output: Output, checkpoints: tuple[str, ...], cast: str | None, rounds: int, out: str | None) -> None:
    """Code all tensors of CHECKPOINTS without loss, and back, on one core.

    A folder that is no checkpoint itself stands for all that lie below it. ZipNN takes part where the package zipnn is
    installed: on each tensor, as everybody, and on all of them in one piece.
    """
    import torch

    from nwc_workflows.bench.environment import environment
    from nwc_workflows.bench.lossless import contenders, in_one_piece, lossless_table, measure, tensors_of
    from nwc_workflows.bench.sheets import Part, Sheet
    from nwc_workflows.train import find_sources

    folder = new_folder("--out", out)
    torch.set_num_threads(1)
    taking_part, absent = contenders()
    if absent:
        output.note(f"zipnn: {absent}")
    data: dict[str, Any] = {"environment": environment(), "cast": cast, "without": absent, "checkpoints": {}}
    parts: list[Part] = []
    for source in find_sources(list(checkpoints)):
        tensors = tensors_of(source.checkpoint, getattr(torch, cast) if cast else None)
        runs = [(one, tensors, one.name) for one in taking_part]
        runs += [(one, in_one_piece(tensors), "zipnn, one piece") for one in taking_part if one.name == "zipnn"]
        total = len(runs) * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        found = []
        with output.progress(total, source.name, "B") as progress:
            measure(taking_part[0], tensors[:1], 1, lambda nbytes: None)  # compiles
            for one, given, name in runs:
                result = measure(one, given, rounds, progress.advance)
                found.append(type(result)(**{**asdict(result), "contender": name}))
        data["checkpoints"][source.name] = [asdict(result) for result in found]
        kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        parts += [f"{source.name}, {', '.join(kinds)}", Sheet(*lossless_table(found))]
    finish(output, "lossless", data, parts, folder)
