"""`nwc plan`: what compressing would do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.options import (
    chosen_options,
    compress_options,
    open_base,
    open_calibration,
    ray_options,
    unmatched_text,
    unreached_text,
)
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.allocate import Allocation, Measured
    from nwc_workflows.plan import Plan
    from nwc_workflows.targets import Target


@click.command()
@click.argument("source")
@compress_options
@ray_options
@with_output
def plan(
    output: Output,
    source: str,
    bits: float | None,
    max_bytes: int | None,
    quality: str | None,
    calibration: str | None,
    base: str | None,
    preset: str,
    codec: str,
    lossless: bool,
    lossless_tensors: tuple[str, ...],
    max_relative_error: float | None,
    max_absolute_error: float | None,
    address: str | None,
    workers: int | None,
) -> None:
    """Say what compressing SOURCE would do, without doing it.

    SOURCE is a .safetensors file, or the folder of a checkpoint: sharded or not, with or without the other files of a
    Hugging Face model. With a calibration all weights are read, to say what rate each tensor would get; a --quality is
    then predicted, where nwc compress would measure it.
    """
    from nwc_core.codec import Codec
    from nwc_workflows.allocate import allocate
    from nwc_workflows.compress import measure
    from nwc_workflows.plan import make_plan

    options = chosen_options(
        *(bits, max_bytes, quality, preset),
        lossless=lossless,
        lossless_tensors=lossless_tensors,
        max_relative_error=max_relative_error,
        max_absolute_error=max_absolute_error,
    )
    target = options.quality
    made = make_plan(source, Codec.load(codec), options, open_calibration(calibration), base=open_base(base))
    if target is not None:
        _check_predictable(made, target)
    allocation: Allocation | None = None
    if made.allocates:
        with output.progress(sum(task.nbytes for task in made.tasks), "measure weights") as progress:
            measured = measure(made, address=address, workers=workers, on_progress=progress.advance)
        if target is not None:
            made = _predicted(made, measured, target)
        allocation = allocate(measured, made.bits, as_good_as=made.as_good_as)
    data = describe(made, allocation)
    output.table(*_table(data))
    for skipped in data["skipped"]:
        output.note(f"left out: {name_text(skipped['path'])} ({bytes_text(skipped['size'])}): {skipped['reason']}")
    for text in (unreached_text(made), unmatched_text(made)):
        if text:
            output.note(text)
    output.result(data, lambda: summary_text(data))


def _check_predictable(plan: Plan, target: Target) -> None:
    """Raises UsageError where nothing says what the loss will be."""
    from nwc_core.errors import UsageError

    if plan.calibration is None or not plan.allocates:
        raise UsageError(
            f"--quality: found {target} without a --calibration that knows gradients; wanted one to predict it by"
        )
    kind = plan.calibration.record.kind if plan.calibration else ""
    metric = "rel-error" if kind == "encoder" else "kl"
    if target.metric != metric:
        raise UsageError(
            f"--quality: found {target}; wanted {metric}=VALUE, which is what can be predicted for {kind!r}"
        )


def _predicted(plan: Plan, measured: list[Measured], target: Target) -> Plan:
    from nwc_workflows.allocate import bits_for
    from nwc_workflows.plan import MIN_BITS

    return plan.with_bits(plan.overall(max(MIN_BITS, bits_for(measured, target.value))))


def describe(plan: Plan, allocation: Allocation | None = None) -> dict[str, Any]:
    """A plan as plain data."""
    tensors: dict[str, dict[str, Any]] = {}
    rates = iter(allocation.rates if allocation else ())
    for block in plan.blocks:
        entry = tensors.setdefault(
            block.tensor.name,
            {
                "name": block.tensor.name,
                "dtype": block.tensor.dtype.name,
                "shape": list(block.tensor.shape),
                "coder": "nwc" if block.lossy else "lossless",
                "blocks": 0,
            },
        )
        entry["blocks"] += 1
        if block.tensor.name in plan.alike:
            entry["copy_of"] = plan.alike[block.tensor.name]
    for block in (block for task in plan.tasks for block in task.blocks):
        if block.lossy and allocation is not None:
            entry = tensors[block.tensor.name]
            entry["bits"] = entry.get("bits", 0.0) + next(rates) * block.numel / block.tensor.numel
    sized = {
        name: value
        for name in ("max_bytes", "max_relative_error", "max_absolute_error")
        if (value := getattr(plan.options, name)) is not None
    }
    predicted = {} if allocation is None else {"predicted_loss": allocation.loss}
    without = {} if plan.calibration is None else {"without_statistics": list(plan.unreached)}
    from nwc_workflows.overhead import are_measured

    return {
        "weights": plan.weights,
        "tensors": list(tensors.values()),
        "tasks": [{"name": task.key, "bytes": task.nbytes, "memory_bytes": plan.memory(task)} for task in plan.tasks],
        "source_bytes": plan.source_nbytes,
        "predicted_bytes": plan.predicted_nbytes,
        "predicted_bits": 8 * plan.predicted_nbytes / max(1, plan.weights),
        "carried_bytes": plan.carried_nbytes,
        "bits": plan.options.bits,
        "bits_of_lossy_tensors": plan.bits,
        "lossless": plan.options.lossless,
        "lossless_measured": are_measured(plan.blocks),
        "worker_memory_bytes": plan.worker_memory,
        "skipped": [asdict(skipped) for skipped in plan.checkpoint.skipped],
        **sized,
        **predicted,
        **without,
    }


def _table(data: dict[str, Any]) -> tuple[list[str], list[list[object]]]:
    """With a column of rates where they differ."""
    rated = "predicted_loss" in data
    rows = [
        [name_text(t["name"]), t["dtype"], "x".join(map(str, t["shape"])) or "scalar", _coder_text(t), t["blocks"]]
        + ([f"{t['bits']:.2f}" if "bits" in t else ""] if rated else [])
        for t in data["tensors"]
    ]
    return ["tensor", "dtype", "shape", "coder", "blocks", *(["bits"] if rated else [])], rows


def _coder_text(tensor: dict[str, Any]) -> str:
    return f"as {name_text(tensor['copy_of'])}" if "copy_of" in tensor else str(tensor["coder"])


def summary_text(data: dict[str, Any]) -> str:
    lossy = sum(tensor["coder"] == "nwc" for tensor in data["tensors"])
    times = data["source_bytes"] / max(1, data["predicted_bytes"])
    coded = f"{lossy} coded by nwc at {data['bits_of_lossy_tensors']:.3f} bits per weight, " if lossy else ""
    # What is stored without loss is coded in a plan where it is little; else it counts as what it is.
    counted = data["lossless_measured"] and not (data.get("max_relative_error") or data.get("max_absolute_error"))
    about = "at most" if not lossy and not counted else "about"
    lines = [
        f"{count_text(len(data['tensors']), 'tensor')}, {data['weights']:,} weights: "
        f"{coded}{len(data['tensors']) - lossy} losslessly",
        f"{bytes_text(data['source_bytes'])} of weights become {about} {bytes_text(data['predicted_bytes'])} "
        f"({data['predicted_bits']:.3f} bits per weight, {times:.1f} times smaller); "
        f"{bytes_text(data['carried_bytes'])} of other files are kept as they are",
        f"{count_text(len(data['tasks']), 'task')}, each worker holds at most {bytes_text(data['worker_memory_bytes'])}",
    ]
    if "predicted_loss" in data:
        lines.append(
            f"predicted loss of the output: {data['predicted_loss']:.4g} (nats, or squared error of embeddings)"
        )
    copies = sum("copy_of" in tensor for tensor in data["tensors"])
    if copies:
        lines.append(f"{copies} seem to be copies of another tensor, which are stored once")
    return "\n".join(lines)
