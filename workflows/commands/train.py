"""`nwc train`: learn a codec from checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text

if TYPE_CHECKING:
    from nwc_core.training.loop import TrainingConfig
    from nwc_core.training.reference import ReferenceConfig

_NWC, _PAPER = "nwc", "nwc-paper"


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--codec", "target", required=True, metavar="FILE", help="Where to write the codec.")
@click.option(
    "--architecture",
    type=click.Choice([_NWC, _PAPER]),
    default=_NWC,
    show_default=True,
    help="nwc-paper is the published autoencoder (arXiv 2510.11234), slow, to compare with.",
)
@click.option("--work", default=None, metavar="FILE", help="Save the state here every 50 steps, and resume from it.")
@click.option("--seed", default=0, show_default=True, help="Of every random draw.")
@click.option("--held-out", default=0.1, show_default=True, help="Share of tensors never trained on.")
@click.option("--steps", type=int, help="Batches of joint training.  [2000; nwc-paper: 4000]")
@click.option("--rounds", type=int, help="Fits of the prior to the real quantiser's choices; nwc only.  [3]")
@click.option("--fit-steps", type=int, help="Updates in each of these fits; nwc only.  [800]")
@click.option("--shapes", type=int, help="Table shapes in the prior; nwc only.  [10]")
@click.option(
    "--transform",
    "transforms",
    multiple=True,
    type=int,
    help="Size of a transform to learn; repeatable; nwc only.  [9]",
)
@with_output
def train(
    output: Output,
    sources: tuple[str, ...],
    target: str,
    architecture: str,
    work: str | None,
    **options: Any,
) -> None:
    """Train a codec on the checkpoints SOURCES and write it to a file.

    A folder that is no checkpoint itself stands for all that lie below it. The same sources, options and environment give
    the same codec; so does a run that was interrupted and resumed.
    """
    import os
    from pathlib import Path

    from nwc_core.errors import UsageError
    from nwc_workflows.train import find_sources
    from nwc_workflows.train import train as run

    path = Path(target)
    if path.exists():
        raise UsageError(f"--codec: {target} exists already; wanted a new file")
    for option, file in (("--codec", target), ("--work", work or target)):
        if not os.access(Path(file).absolute().parent, os.W_OK):  # known now rather than after the training
            raise UsageError(f"{option}: found no folder for {file} that can be written to; wanted one")
    config = _config(architecture, options)
    found = find_sources(list(sources))
    with output.progress(config.total_steps, "train", "steps") as progress:
        done_before = 0

        def advance(done: int, total: int, what: str) -> None:
            nonlocal done_before
            progress.advance(done - done_before)
            done_before = done

        codec = run(found, config, Path(work) if work else None, advance)
    data = codec.to_bytes()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
    if work:
        Path(work).unlink()
    learned = codec.provenance
    output.result(
        {
            "codec": str(path),
            "architecture": codec.architecture,
            "sha256": codec.digest,
            "bytes": len(data),
            "sources": learned["sources"],
            "tensors": learned["tensors"],
            "curve": learned["curve"],
        },
        f"{path}: {bytes_text(len(data))}, learned from {learned['tensors']['train']} matrices of "
        f"{len(found)} checkpoints{_tested(learned)}",
    )


def _config(architecture: str, options: dict[str, Any]) -> TrainingConfig | ReferenceConfig:
    """The configuration that the options given make, all others at their defaults."""
    from nwc_core.errors import UsageError
    from nwc_core.training.loop import TrainingConfig
    from nwc_core.training.reference import ReferenceConfig

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if architecture == _NWC:
        return TrainingConfig(**given)
    if foreign := sorted(set(given) - {"seed", "steps", "held_out"}):
        name = "transform" if foreign[0] == "transforms" else foreign[0].replace("_", "-")
        raise UsageError(f"--{name}: found with --architecture {architecture}; wanted only with --architecture {_NWC}")
    return ReferenceConfig(**given)


def _tested(provenance: dict[str, Any]) -> str:
    """What the codec does to tensors that it never saw, in words."""
    held_out = provenance["tensors"]["held_out"]
    for entry in reversed(provenance["curve"]):
        if "held_out_bits" in entry:
            return f"; {entry['held_out_bits']:.4f} bits per weight on {held_out} held-out ones"
        if "levels" in entry:
            levels = ", ".join(f"{level['bits']:.2f}" for level in entry["levels"])
            return f"; quality levels at {levels} bits per weight on {held_out} held-out ones"
    return ""
