"""`nwc compress`: a checkpoint becomes an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.commands.options import (
    chosen_options,
    compress_options,
    quality_options,
    ray_options,
    unmatched_text,
    unreached_text,
)
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, duration_text, name_text

if TYPE_CHECKING:
    from nwc_core.store import Store
    from nwc_workflows.plan import Plan
    from nwc_workflows.quality import Meter
    from nwc_workflows.recovery.recover import Recovered
    from nwc_workflows.request import Done
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
    base: str | None,
    preset: str,
    codec: str,
    lossless: bool,
    lossless_tensors: tuple[str, ...],
    max_relative_error: float | None,
    max_absolute_error: float | None,
    scratch: str | None,
    address: str | None,
    workers: int | None,
    **more: Any,
) -> None:
    """Compress the checkpoint SOURCE into an artifact at DESTINATION.

    SOURCE is a .safetensors file or the folder of a checkpoint; DESTINATION a folder that holds no other artifact.
    """
    from nwc_core.codec import Codec
    from nwc_core.store import open_store
    from nwc_workflows.request import Request, prepare

    options = chosen_options(
        *(bits, max_bytes, quality, preset, gate),
        lossless=lossless,
        lossless_tensors=lossless_tensors,
        max_relative_error=max_relative_error,
        max_absolute_error=max_absolute_error,
    )
    named = {name: more.pop(name) for name in ("quality_data", "recover", "recover_data", "recover_steps")}
    request = Request(source, options, calibration, base, **named, measuring=more, scratch=scratch)
    prepared = prepare(request, Codec.load(codec))
    _say_plan(output, prepared.plan)
    store = open_store(destination, "destination")
    output.note(
        f"{count_text(len(prepared.plan.tasks), 'task')}; "
        + (f"connecting to Ray at {address}" if address else "starting a local Ray")
    )
    done = prepared.run(
        store,
        show=output.progress,
        on_trial=lambda trial: _say_trial(output, prepared.meter, trial),
        address=address,
        workers=workers,
    )
    _say_done(output, prepared.plan, store, done)


def _say_plan(output: Output, plan: Plan) -> None:
    for skipped in plan.checkpoint.skipped:
        output.note(f"left out: {name_text(skipped.path)} ({bytes_text(skipped.size)}): {skipped.reason}")
    for text in (unreached_text(plan), unmatched_text(plan)):
        if text:
            output.note(text)
    if plan.options.bits is not None and plan.bits < plan.options.bits - _NOTABLE:
        output.note(
            f"in so small a checkpoint the codec, the index and the tensors stored losslessly take "
            f"{bytes_text(plan.fixed_nbytes)}: {plan.options.bits:g} bits per weight leave {plan.bits:.2f} for each coded "
            "weight"
        )


def _say_trial(output: Output, meter: Meter | None, trial: Trial) -> None:
    found, metric = trial.measured, meter.metric if meter else ""
    output.note(
        f"trial: {trial.bits:.3f} bits per weight, {bytes_text(trial.weight_nbytes)}: {metric} {found.value:.4g} "
        f"({found.low:.4g} to {found.high:.4g}): {'good enough' if trial.good else 'not good enough'}"
    )


def _say_done(output: Output, plan: Plan, store: Store, finished: Done) -> None:
    done, trials, recovered = finished.compressed, finished.trials, finished.recovered
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
    if recovered is not None:
        data["recovery"] = _recovery_data(recovered)
    if not done.created:
        output.result(data, f"{store.uri} holds this very artifact already; nothing to do")
        return
    asked = job.get("bits")
    if isinstance(asked, float) and done.bits_per_weight > asked + _MISSED:
        output.note(
            f"bits: {done.bits_per_weight:.3f} per weight, where {asked:g} were asked for: some tensors take more at the "
            "coarsest step that still keeps anything of them"
        )
    if recovered is not None:
        output.note(_recovery_text(recovered))
    times = done.source_nbytes / done.weight_nbytes
    smaller = f"{times:.2f} times smaller" if times >= 1 else f"{1 / times:.2f} times larger"
    output.result(
        data,
        f"{store.uri}: {count_text(counts.tensors, 'tensor')}, "
        f"{bytes_text(done.source_nbytes)} -> {bytes_text(done.weight_nbytes)}, {smaller}, "
        f"{done.bits_per_weight:.3f} bits per weight, "
        f"{duration_text(done.seconds)}; and {bytes_text(done.carried_nbytes)} of other files",
    )


def _recovery_data(recovered: Recovered) -> dict[str, Any]:
    return {
        "tuned": list(recovered.tensors),
        "unit": recovered.unit,
        "before": recovered.before,
        "after": recovered.after,
        "gain": recovered.gain,
        "steps": recovered.steps,
    }


def _recovery_text(recovered: Recovered) -> str:
    if not recovered.tensors:
        return (
            f"recovery: nothing gained in {recovered.steps} steps; {recovered.unit}, on data held out: "
            f"{recovered.before:.4g}; all tensors stay as they were"
        )
    return (
        f"recovery: {count_text(len(recovered.tensors), 'tensor')} tuned in {recovered.steps} steps; "
        f"{recovered.unit}, on data held out: "
        f"{recovered.before:.4g} -> {recovered.after:.4g} ({100 * recovered.gain:.1f} % less)"
    )


def _trial_data(trial: Trial) -> dict[str, Any]:
    found = trial.measured
    return {
        "bits_per_weight": trial.bits,
        "weight_bytes": trial.weight_nbytes,
        "measured": {"value": found.value, "low": found.low, "high": found.high},
        "good_enough": trial.good,
    }
