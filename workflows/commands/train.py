"""`nwc train`: learn a codec from checkpoints."""

from __future__ import annotations

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--codec", "target", required=True, metavar="FILE", help="Where to write the codec.")
@click.option("--work", default=None, metavar="FILE", help="Save the state here every 50 steps, and resume from it.")
@click.option("--seed", default=0, show_default=True, help="Of every random draw.")
@click.option("--steps", default=2000, show_default=True, help="Batches of joint training.")
@click.option("--rounds", default=3, show_default=True, help="Fits of the prior to the real quantiser's choices.")
@click.option("--fit-steps", default=800, show_default=True, help="Updates in each of these fits.")
@click.option("--shapes", default=8, show_default=True, help="Table shapes in the prior.")
@click.option(
    "--transform", "transforms", multiple=True, type=int, help="Size of a transform to learn; repeatable. [9]"
)
@click.option("--held-out", default=0.1, show_default=True, help="Share of tensors never trained on.")
@with_output
def train(
    output: Output,
    sources: tuple[str, ...],
    target: str,
    work: str | None,
    seed: int,
    steps: int,
    rounds: int,
    fit_steps: int,
    shapes: int,
    transforms: tuple[int, ...],
    held_out: float,
) -> None:
    """Train a codec on the checkpoints SOURCES and write it to a file.

    A folder that is no checkpoint itself stands for all that lie below it. The same sources, options and environment give
    the same codec; so does a run that was interrupted and resumed.
    """
    import os
    from pathlib import Path

    from nwc_core.errors import UsageError
    from nwc_core.training.loop import TrainingConfig
    from nwc_workflows.train import find_sources
    from nwc_workflows.train import train as run

    path = Path(target)
    if path.exists():
        raise UsageError(f"--codec: {target} exists already; wanted a new file")
    for option, file in (("--codec", target), ("--work", work or target)):
        if not os.access(Path(file).absolute().parent, os.W_OK):  # known now rather than after the training
            raise UsageError(f"{option}: found no folder for {file} that can be written to; wanted one")
    config = TrainingConfig(
        seed=seed,
        steps=steps,
        rounds=rounds,
        fit_steps=fit_steps,
        shapes=shapes,
        transforms=transforms or (9,),
        held_out=held_out,
    )
    found = find_sources(list(sources))
    with output.progress(config.total_steps, "train", "steps") as progress:
        done_before = 0

        def advance(done: int, total: int, what: str) -> None:
            nonlocal done_before
            progress.advance(done - done_before)
            done_before = done

        codec, trainer = run(found, config, Path(work) if work else None, advance)
    data = codec.to_bytes()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)
    if work:
        Path(work).unlink()
    curve = trainer.state.curve
    matrices, held_out = len(trainer.dataset.train), len(trainer.dataset.held_out)
    tested = next((fit["held_out_bits"] for fit in reversed(curve) if "held_out_bits" in fit), None)
    output.result(
        {
            "codec": str(path),
            "sha256": codec.digest,
            "bytes": len(data),
            "sources": trainer.sources,
            "tensors": codec.provenance["tensors"],
            "curve": curve,
        },
        f"{path}: {bytes_text(len(data))}, learned from {matrices} matrices of {len(found)} checkpoints"
        + (f"; {tested:.4f} bits per weight on {held_out} held-out ones" if tested is not None else ""),
    )
