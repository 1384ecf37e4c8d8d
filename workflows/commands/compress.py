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
    from nwc_workflows.recovery.recover import Recovered, Recovery
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
    tuning = {name: measuring.pop(name) for name in ("recover", "recover_data", "recover_steps")}
    meter = _open_meter(source, options.quality or options.gate, measuring.pop("quality_data"), measuring, weighing)
    recovery = _open_recovery(source, tuning, measuring, meter)
    described = {**(meter.description if meter else {}), **(recovery.description if recovery else {})}
    plan = make_plan(source, Codec.load(codec), options, weighing, described)
    if recovery is not None:
        plan = recovery.reserve(plan)
    _say_plan(output, plan)
    store = open_store(destination, "destination")
    output.note(
        f"{len(plan.tasks)} tasks; " + (f"connecting to Ray at {address}" if address else "starting a local Ray")
    )
    trials: tuple[Trial, ...] = ()
    recovered: Recovered | None = None
    where: dict[str, Any] = {"address": address, "workers": workers}
    if meter is not None:
        done, trials, recovered = _on_trial(output, plan, store, meter, recovery, scratch=scratch, **where)
    elif recovery is not None:
        from nwc_workflows.recovery.on_trial import compress_and_recover

        done, recovered = compress_and_recover(plan, store, recovery, show=output.progress, scratch=scratch, **where)
    else:
        with output.progress(work(plan), "compress") as progress:
            done = run(plan, store, on_progress=progress.advance, **where)
    _say_done(output, plan, store, done, trials, recovered)


def _open_meter(
    source: str, target: Target | None, data: str | None, measuring: dict[str, Any], calibration: Calibration | None
) -> Meter | None:
    from nwc_core.errors import UsageError

    if target is None:
        if data is not None:
            raise UsageError("--quality-data: found it without --quality and --gate; wanted one of them, too")
        return None
    if data is None:
        raise UsageError(f"{target}: found no --quality-data; wanted data to measure it on")
    from nwc_workflows.evaluate import EvaluateOptions
    from nwc_workflows.quality import open_meter

    return open_meter(source, target, EvaluateOptions(data=Path(data), subset="evenly", **measuring), calibration)


def _open_recovery(
    source: str, tuning: dict[str, Any], measuring: dict[str, Any], meter: Meter | None
) -> Recovery | None:
    from nwc_core.errors import UsageError

    minutes, data, steps = tuning["recover"], tuning["recover_data"], tuning["recover_steps"]
    if minutes is None:
        if data is not None or steps is not None:
            option = "--recover-data" if data is not None else "--recover-steps"
            raise UsageError(f"{option}: found it without --recover; wanted that, too")
        return None
    if data is None:
        raise UsageError("--recover: found no --recover-data; wanted data to tune on")
    from nwc_workflows.evaluate import EvaluateOptions
    from nwc_workflows.recovery.recover import open_recovery

    measured_on = meter.prepared.task.description["sha256"] if meter else None
    options = EvaluateOptions(data=Path(data), subset="evenly", **measuring)
    return open_recovery(source, minutes, options, steps=steps, measured_on=measured_on)


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
    output: Output, plan: Plan, store: Store, meter: Meter, recovery: Recovery | None, **where: Any
) -> tuple[CompressResult, tuple[Trial, ...], Recovered | None]:
    from nwc_workflows.trials import compress_to_quality

    def say(trial: Trial) -> None:
        found = trial.measured
        output.note(
            f"trial: {trial.bits:.3f} bits per weight, {bytes_text(trial.weight_nbytes)}: {meter.metric} {found.value:.4g} "
            f"({found.low:.4g} to {found.high:.4g}): {'good enough' if trial.good else 'not good enough'}"
        )

    done = compress_to_quality(plan, store, meter, show=output.progress, on_trial=say, recovery=recovery, **where)
    return done.compressed, done.trials, done.recovered


def _say_done(
    output: Output,
    plan: Plan,
    store: Store,
    done: CompressResult,
    trials: tuple[Trial, ...],
    recovered: Recovered | None,
) -> None:
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
        f"{store.uri}: {counts.tensors} tensors, {bytes_text(done.source_nbytes)} -> {bytes_text(done.weight_nbytes)}, "
        f"{smaller}, {done.bits_per_weight:.3f} bits per weight, "
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
        f"recovery: {len(recovered.tensors)} tensors tuned in {recovered.steps} steps; {recovered.unit}, on data held out: "
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
