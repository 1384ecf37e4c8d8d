"""Everything that the benchmark of whole models needs, opened and checked before any method runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nwc_core.errors import UsageError
from nwc_workflows.bench.models import ModelsBench
from nwc_workflows.bench.rivals.calibration import Calibration
from nwc_workflows.bench.rivals.rival import Rival, Scope
from nwc_workflows.bench.rivals.statistics import Found, Made
from nwc_workflows.calibration.preparation import CalibrateOptions
from nwc_workflows.evaluate import EvaluateOptions, Prepared, prepare
from nwc_workflows.evaluation.models import load_model


def prepare_bench(
    model: str,
    options: EvaluateOptions,
    calibration_data: Path | None,
    scope: Scope,
    rivals: Sequence[Rival],
    calibration: str | None = None,
) -> ModelsBench:
    """Open the model and read the data.

    Args:
        model: path or URI of a checkpoint.
        options: the data to evaluate on, and how.
        calibration_data: of the same kind, for methods that calibrate.
        scope: see `Subject`.
        rivals: every method at every setting.
        calibration: path or URI of what `nwc calibrate` made of the model; None to make it of `calibration_data`.

    Raises:
        UsageError: the model is compressed already; data of the test are those of a calibration; see also `prepare`.
        FormatError: the calibration is another model's; see also `prepare`.
    """
    prepared = prepare(model, (), options)
    original = prepared.original
    if original.fingerprint is not None:
        raise UsageError(
            f"{original.uri}: found an artifact, compressed already; wanted the checkpoint that it was made of"
        )
    data = None if calibration_data is None else _read(model, prepared, options, calibration_data)
    statistics: Made | Found | None = None
    if calibration is not None:
        statistics = Found.open(calibration, model, prepared.task.description["sha256"])
    elif calibration_data is not None:
        how = CalibrateOptions(calibration_data, prepared.kind, options.window, factory=options.factory)
        statistics = Made(model, how)
    return ModelsBench(prepared, data, statistics, scope, rivals)


def _read(model: str, prepared: Prepared, options: EvaluateOptions, path: Path) -> Calibration:
    """All of the calibration data."""
    # Texts one at a time: no layer of an encoder sees padding, which would count as data.
    batch = 1 if prepared.kind == "encoder" else None
    other = prepare(model, (), replace(options, data=path, max_items=None, max_tokens=None, batch=batch))
    if other.task.description["sha256"] == prepared.task.description["sha256"]:
        raise UsageError(f"--calibration-data: found the data of --data, {options.data}; wanted other data")
    original = prepared.original
    return Calibration(other.task, partial(load_model, original, original, prepared.kind, prepared.factory))
