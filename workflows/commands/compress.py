"""`nwc compress`: a checkpoint becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.options import (
    chosen_options,
    compress_options,
    open_calibration,
    quality_options,
    ray_options,
    unreached_text,
)
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, duration_text, name_text

if TYPE_CHECKING:
    from nwc_core.store import Store
    from nwc_workflows.calibration.reading import Calibration
    from nwc_workflows.compress import CompressResult
    from nwc_workflows.plan import Plan
    from nwc_workflows.quality import Meter
    from nwc_workflows.targets import Target
    from nwc_workflows.trials import Trial

_NOTABLE = 0.5  # bits per weight below what was asked for: worth a word
_MISSED = 0.03  # bits per weight above what was asked for from which it is said


@click.command()
@click.argument("source")
@click.argument("destination")
@compress_options
@quality_options
@ray_options
@with_output
def compress(
    output: Output,
    source: str,
    destination: str,
    bits: float | None,
    max_bytes: int | None,
    quality: str | None,
    gate: str | None,
    calibration: str | None,
    preset: str,
    codec: str,
    scratch: str | None,
    address: str | None,
    workers: int | None,
    **measuring: Any,
) -> None:
    """Compress the checkpoint SOURCE into an artifact at DESTINATION.

    SOURCE is a .safetensors file or the folder of a checkpoint; DESTINATION a folder that holds no other artifact.
    """
    from nwc_core.codec import Codec
    from nwc_core.store import open_store
    from nwc_workflows.compress import compress as run
    from nwc_workflows.compress import work
    from nwc_workflows.plan import make_plan

    options = chosen_options(bits, max_bytes, quality, preset, gate)
    weighing = open_calibration(calibration)
    meter = _open_meter(source, options.quality or options.gate, measuring, weighing)
    plan = make_plan(source, Codec.load(codec), options, weighing, meter.description if meter else None)
    _say_plan(output, plan)
    store = open_store(destination, "destination")
    output.note(
        f"{len(plan.tasks)} tasks; " + (f"connecting to Ray at {address}" if address else "starting a local Ray")
    )
    trials: tuple[Trial, ...] = ()
    if meter is not None:
        done, trials = _on_trial(output, plan, store, meter, scratch=scratch, address=address, workers=workers)
    else:
        with output.progress(work(plan), "compress") as progress:
            done = run(plan, store, address=address, workers=workers, on_progress=progress.advance)
    _say_done(output, plan, store, done, trials)


def _open_meter(
    source: str, target: Target | None, measuring: dict[str, Any], calibration: Calibration | None
) -> Meter | None:
    from nwc_core.errors import UsageError

    data = measuring.pop("quality_data")
    if target is None:
        if data is not None:
            raise UsageError("--quality-data: found it without --quality and --gate; wanted one of them, too")
        return None
    if data is None:
        raise UsageError(f"{target}: found no --quality-data; wanted data to measure it on")
    from nwc_workflows.evaluate import EvaluateOptions
    from nwc_workflows.quality import open_meter

    return open_meter(source, target, EvaluateOptions(data=Path(data), **measuring), calibration)


def _say_plan(output: Output, plan: Plan) -> None:
    for skipped in plan.checkpoint.skipped:
        output.note(f"left out: {name_text(skipped.path)} ({bytes_text(skipped.size)}): {skipped.reason}")
    unreached = unreached_text(plan)
    if unreached:
        output.note(unreached)
    if plan.options.bits is not None and plan.bits < plan.options.bits - _NOTABLE:
        output.note(
            f"in so small a checkpoint the codec, the index and the tensors stored losslessly take "
            f"{bytes_text(plan.fixed_nbytes)}: {plan.options.bits:g} bits per weight leave {plan.bits:.2f} for each coded "
            "weight"
        )


def _on_trial(
    output: Output, plan: Plan, store: Store, meter: Meter, **where: Any
) -> tuple[CompressResult, tuple[Trial, ...]]:
    from nwc_workflows.trials import compress_to_quality

    def say(trial: Trial) -> None:
        found = trial.measured
        output.note(
            f"trial: {trial.bits:.3f} bits per weight, {bytes_text(trial.weight_nbytes)}: {meter.metric} {found.value:.4g} "
            f"({found.low:.4g} to {found.high:.4g}): {'good enough' if trial.good else 'not good enough'}"
        )

    done = compress_to_quality(plan, store, meter, show=output.progress, on_trial=say, **where)
    return done.compressed, done.trials


def _say_done(output: Output, plan: Plan, store: Store, done: CompressResult, trials: tuple[Trial, ...]) -> None:
    counts, job = done.manifest.counts, done.manifest.job
    data: dict[str, Any] = {
        "destination": store.uri,
        "created": done.created,
        "tensors": counts.tensors,
        "weights": counts.weights,
        "source_bytes": done.source_nbytes,
        "weight_bytes": done.weight_nbytes,
        "carried_bytes": done.carried_nbytes,
        "bits_per_weight": done.bits_per_weight,
        "bits_of_lossy_tensors": done.lossy_bits,
        "seconds": done.seconds,
        "fingerprint": done.manifest.fingerprint,
        "skipped": [skipped.model_dump() for skipped in done.manifest.skipped],
    }
    if done.allocation is not None:
        data["predicted_loss"] = done.allocation.loss
    if plan.calibration is not None:
        data["without_statistics"] = list(plan.unreached)
    if trials:
        data["trials"] = [_trial_data(trial) for trial in trials]
    if not done.created:
        output.result(data, f"{store.uri} holds this very artifact already; nothing to do")
        return
    asked = job.get("bits")
    if isinstance(asked, float) and done.bits_per_weight > asked + _MISSED:
        output.note(
            f"bits: {done.bits_per_weight:.3f} per weight, where {asked:g} were asked for: some tensors take more at the "
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


def _trial_data(trial: Trial) -> dict[str, Any]:
    found = trial.measured
    return {
        "bits_per_weight": trial.bits,
        "weight_bytes": trial.weight_nbytes,
        "measured": {"value": found.value, "low": found.low, "high": found.high},
        "good_enough": trial.good,
    }
