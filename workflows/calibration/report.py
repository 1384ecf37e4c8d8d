"""A calibration as plain data for JSON, and as a table for people."""

from __future__ import annotations

import math
from typing import Any

from nwc_workflows.calibration.reading import Calibration
from nwc_workflows.calibration.record import WeightRecord
from nwc_workflows.wording import name_text

# A Hessian of which more than this is prior is worth a word: its weight was hardly reached.
_HARDLY = 0.5


def describe(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain data; `loss_share` is the weight's share of the loss if all weights err alike."""
    record = calibration.record
    total = _total_energy(calibration)
    return {
        "calibration": calibration.store.uri,
        "fingerprint": record.fingerprint,
        "model": record.model,
        "kind": record.kind,
        "input_only": record.input_only,
        "data": record.data,
        "options": record.options,
        "bytes": sum(record.objects.values()),
        "weights": [
            {
                "name": weight.name,
                "shape": list(weight.shape),
                "matrices": list(weight.matrix_shape),
                "positions": weight.positions,
                "shrinkage": weight.shrinkage,
                "row_shrinkage": weight.row_shrinkage,
                "condition": weight.condition,
                "loss_share": _energy(weight) / total if total else None,
            }
            for weight in record.weights
        ],
        "hardly_reached": hardly_reached(calibration),
        "unreached": [{"name": weight.name, "reason": weight.reason} for weight in record.unreached],
    }


def table(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: one for each weight, a stack of matrices by its least and its greatest."""
    total = _total_energy(calibration)
    headers = ["weight", "matrices", "positions", "Hessian from prior, %", "rows from prior, %", "share of loss, %"]
    rows = [
        [
            name_text(weight.name),
            "x".join(map(str, weight.matrix_shape)),
            _range([f"{value:,}" for value in (min(weight.positions), max(weight.positions))]),
            _percents(weight.shrinkage) if weight.hessian else "",
            _percents(weight.row_shrinkage) if weight.rows else "",
            f"{100 * _energy(weight) / total:.3f}" if total else "",
        ]
        for weight in calibration.record.weights
    ]
    return headers, rows


def hardly_reached(calibration: Calibration) -> list[str]:
    """Names of weights with a Hessian that is mostly prior, of a matrix of theirs at least."""
    return [weight.name for weight in calibration.record.weights if weight.hessian and max(weight.shrinkage) > _HARDLY]


def _energy(weight: WeightRecord) -> float:
    return math.fsum(weight.energy)


def _total_energy(calibration: Calibration) -> float:
    return math.fsum(_energy(weight) for weight in calibration.record.weights)


def _percents(shares: list[float]) -> str:
    return _range([f"{100 * value:.1f}" for value in (min(shares), max(shares))])


def _range(ends: list[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
