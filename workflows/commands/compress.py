"""`nwc compress`: a checkpoint becomes an artifact."""

from __future__ import annotations

import click

from nwc_workflows.commands.options import compress_options, ray_options
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, duration_text, name_text

_NOTABLE = 0.5  # bits per weight below what was asked for: worth a word
_MISSED = 0.03  # bits per weight above what was asked for from which it is said


@click.command()
@click.argument("source")
@click.argument("destination")
@compress_options
@ray_options
@with_output
def compress(
    output: Output,
    source: str,
    destination: str,
    bits: float,
    preset: str,
    codec: str,
    address: str | None,
    workers: int | None,
) -> None:
    """Compress the checkpoint SOURCE into an artifact at DESTINATION.

    SOURCE is a .safetensors file or the folder of a checkpoint; DESTINATION a folder that holds no other artifact.
    """
    from nwc_core.codec import Codec
    from nwc_core.store import open_store
    from nwc_workflows.compress import compress as run
    from nwc_workflows.plan import CompressOptions, make_plan

    plan = make_plan(source, Codec.load(codec), CompressOptions(bits=bits, preset=preset))
    for skipped in plan.checkpoint.skipped:
        output.note(f"left out: {name_text(skipped.path)} ({bytes_text(skipped.size)}): {skipped.reason}")
    if plan.bits < bits - _NOTABLE:
        output.note(
            f"in so small a checkpoint the codec, the index and the tensors stored losslessly take "
            f"{bytes_text(plan.fixed_nbytes)}: {bits:g} bits per weight leave {plan.bits:.2f} for each coded weight"
        )
    store = open_store(destination, "destination")
    output.note(
        f"{len(plan.tasks)} tasks; " + (f"connecting to Ray at {address}" if address else "starting a local Ray")
    )
    with output.progress(sum(task.nbytes for task in plan.tasks), "compress") as progress:
        done = run(plan, store, address=address, workers=workers, on_progress=progress.advance)
    counts = done.manifest.counts
    data = {
        "destination": store.uri,
        "created": done.created,
        "tensors": counts.tensors,
        "weights": counts.weights,
        "source_bytes": done.source_nbytes,
        "weight_bytes": done.weight_nbytes,
        "carried_bytes": done.carried_nbytes,
        "bits_per_weight": done.bits_per_weight,
        "bits_of_lossy_tensors": plan.bits,
        "seconds": done.seconds,
        "fingerprint": done.manifest.fingerprint,
        "skipped": [skipped.model_dump() for skipped in done.manifest.skipped],
    }
    if not done.created:
        output.result(data, f"{store.uri} holds this very artifact already; nothing to do")
        return
    if done.bits_per_weight > bits + _MISSED:
        output.note(
            f"bits: {done.bits_per_weight:.3f} per weight, where {bits:g} were asked for: some tensors take more at the "
            "coarsest step that still keeps anything of them"
        )
    times = done.source_nbytes / done.weight_nbytes
    smaller = f"{times:.2f} times smaller" if times >= 1 else f"{1 / times:.2f} times larger"
    output.result(
        data,
        f"{store.uri}: {counts.tensors} tensors, {bytes_text(done.source_nbytes)} -> {bytes_text(done.weight_nbytes)}, "
        f"{smaller}, {done.bits_per_weight:.3f} bits per weight, "
        f"{duration_text(done.seconds)}; and {bytes_text(done.carried_nbytes)} of other files",
    )
