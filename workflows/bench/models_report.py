"""The benchmark of whole models in words and as plain data."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from nwc_workflows.bench.models import SEED, ModelsResults
from nwc_workflows.bench.sheets import Part, Sheet
from nwc_workflows.evaluation.report import describe, table
from nwc_workflows.evaluation.results import Evaluation, ModelResult
from nwc_workflows.wording import bytes_text, duration_text

_LEADING = 3  # columns of an evaluation's table before its figures: model, bytes, bits per weight


def report_parts(results: ModelsResults) -> list[Part]:
    """Tables for people: the original and all points by rising bits, then what was left out."""
    headers, rows = table(_evaluation(results))
    subject, nbytes = results.subject, results.original_nbytes
    original = ["original", "", bytes_text(nbytes), f"{8 * nbytes / subject.weights:.3f}", "", ""]
    cells = [[*original, *rows[0][_LEADING:]]]
    for point, row in zip(results.points, rows[1:], strict=True):
        coded = f"{point.coded_bits:.3f} ({point.coded})"
        size = [bytes_text(point.nbytes), f"{point.bits:.3f}", coded, duration_text(point.seconds)]
        cells.append([point.rival.name, point.rival.setting, *size, *row[_LEADING:]])
    task = results.prepared.task
    over = "everything" if subject.scope == "whole" else f"the {len(subject.linears)} linear layers"
    parts: list[Part] = [
        f"{results.prepared.original.uri} on {task.count} {task.unit}; bits per weight over {over}, and over the tensors "
        "that a method coded (how many)",
        Sheet(["method", "setting", "bytes", "bits/weight", "of coded", "time", *headers[_LEADING:]], cells),
    ]
    if results.left_out:
        left_out = [[entry.name, entry.setting, entry.reason] for entry in results.left_out]
        parts.append(Sheet(["left out", "setting", "reason"], left_out))
    return parts


def as_data(results: ModelsResults) -> dict[str, Any]:
    """Everything as plain data, for JSON."""
    found = describe(_evaluation(results))
    figures = found.pop("compressed")
    return {
        **found,
        "scope": results.subject.scope,
        "scope_weights": results.subject.weights,
        "scope_bytes": results.original_nbytes,
        "linears": [linear.name for linear in results.subject.linears],
        "calibration": results.calibration,
        "calibration_fingerprint": results.statistics,
        "seed": SEED,
        "points": [
            {
                "method": point.rival.name,
                "setting": point.rival.setting,
                "bytes": point.nbytes,
                "bits_per_weight": point.bits,
                "coded_tensors": point.coded,
                "coded_weights": point.coded_weights,
                "coded_bytes": point.coded_nbytes,
                "coded_bits_per_weight": point.coded_bits,
                "seconds": point.seconds,
                "versions": dict(point.versions),
                "figures": {key: described[key] for key in point.figures},
            }
            for point, described in zip(results.points, figures, strict=True)
        ],
        "left_out": [asdict(entry) for entry in results.left_out],
    }


def _evaluation(results: ModelsResults) -> Evaluation:
    prepared = results.prepared
    models = [ModelResult(replace(prepared.original, nbytes=point.nbytes), point.figures) for point in results.points]
    original = ModelResult(prepared.original, results.original)
    return Evaluation(prepared.kind, prepared.task.description, original, tuple(models))
