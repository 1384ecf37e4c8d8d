"""`nwc plan`: what compressing would do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.options import compress_options
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.plan import Plan


@click.command()
@click.argument("source")
@compress_options
@with_output
def plan(output: Output, source: str, bits: float, preset: str, codec: str) -> None:
    """Say what compressing SOURCE would do, without doing it.

    SOURCE is a .safetensors file, or the folder of a checkpoint: sharded or not, with or without the other files of a
    Hugging Face model.
    """
    from nwc_core.codec import Codec
    from nwc_workflows.plan import CompressOptions, make_plan

    made = make_plan(source, Codec.load(codec), CompressOptions(bits=bits, preset=preset))
    data = describe(made)
    output.table(
        ["tensor", "dtype", "shape", "coder", "blocks"],
        [
            [name_text(t["name"]), t["dtype"], "x".join(map(str, t["shape"])) or "scalar", t["coder"], t["blocks"]]
            for t in data["tensors"]
        ],
    )
    for skipped in data["skipped"]:
        output.note(f"left out: {name_text(skipped['path'])} ({bytes_text(skipped['size'])}): {skipped['reason']}")
    output.result(data, lambda: summary_text(data))


def describe(plan: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    tensors: dict[str, dict[str, Any]] = {}
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
    return {
        "weights": plan.weights,
        "tensors": list(tensors.values()),
        "tasks": [{"name": task.key, "bytes": task.nbytes, "memory_bytes": task.memory} for task in plan.tasks],
        "source_bytes": plan.source_nbytes,
        "predicted_bytes": plan.predicted_nbytes,
        "predicted_bits": 8 * plan.predicted_nbytes / max(1, plan.weights),
        "carried_bytes": plan.carried_nbytes,
        "bits": plan.options.bits,
        "bits_of_lossy_tensors": plan.bits,
        "worker_memory_bytes": plan.worker_memory,
        "skipped": [asdict(skipped) for skipped in plan.checkpoint.skipped],
    }


def summary_text(data: dict[str, Any]) -> str:
    lossy = sum(tensor["coder"] == "nwc" for tensor in data["tensors"])
    times = data["source_bytes"] / max(1, data["predicted_bytes"])
    return "\n".join(
        [
            f"{len(data['tensors'])} tensors, {data['weights']:,} weights: {lossy} coded by nwc at "
            f"{data['bits_of_lossy_tensors']:.3f} bits per weight, {len(data['tensors']) - lossy} losslessly",
            f"{bytes_text(data['source_bytes'])} of weights become about {bytes_text(data['predicted_bytes'])} "
            f"({data['predicted_bits']:.3f} bits per weight, {times:.1f} times smaller); "
            f"{bytes_text(data['carried_bytes'])} of other files are kept as they are",
            f"{len(data['tasks'])} tasks, each worker holds at most {bytes_text(data['worker_memory_bytes'])}",
        ]
    )
