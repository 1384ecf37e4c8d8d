"""An evaluation as plain data for JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from nwc_workflows.bench.environment import environment
from nwc_workflows.evaluation.intervals import CONFIDENCE, RESAMPLES, Interval
from nwc_workflows.evaluation.results import Evaluation, ModelResult
from nwc_workflows.wording import bytes_text

# Heading and form of each figure, in the order of the table.
FORMS: dict[str, tuple[str, Callable[[float], str]]] = {
    "perplexity": ("perplexity", "{:.2f}".format),
    "perplexity_change": ("change", "{:+.3f}".format),
    "kl": ("KL", "{:.5f}".format),
    "top1_agreement": ("top-1 agreement, %", lambda x: f"{100 * x:.2f}"),
    "error_db": ("error, dB", "{:.2f}".format),
    "cosine": ("cosine", "{:.5f}".format),
    "least_cosine": ("least cosine", "{:.5f}".format),
    "retrieval_agreement": ("same neighbour, %", lambda x: f"{100 * x:.2f}"),
    "accuracy": ("top-1 accuracy, %", lambda x: f"{100 * x:.2f}"),
    "accuracy_change": ("change, points", lambda x: f"{100 * x:+.2f}"),
    "agreement": ("agreement, %", lambda x: f"{100 * x:.2f}"),
}


def describe(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain data. Bits per weight count the original's weights, however a model stores them."""
    return {
        "task": found.kind,
        "data": found.data,
        "intervals": {"method": "percentile bootstrap", "confidence": CONFIDENCE, "resamples": RESAMPLES},
        "original": _model(found, found.original),
        "compressed": [_model(found, result) for result in found.compressed],
        "environment": {**environment(), "transformers": _transformers_version()},
    }


def table(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a model each, every figure with its 95 % interval."""
    results = [found.original, *found.compressed]
    keys = [key for key in FORMS if any(key in result.figures for result in results)]
    headers = ["model", "bytes", "bits/weight", *(FORMS[key][0] for key in keys)]
    rows = [
        [
            result.model.uri,
            bytes_text(result.model.nbytes),
            f"{_bits(found, result):.3f}",
            *(_cell(key, result) for key in keys),
        ]
        for result in results
    ]
    return headers, rows


def _model(found: Evaluation, result: ModelResult) -> dict[str, Any]:
    return {
        "model": result.model.uri,
        "bytes": result.model.nbytes,
        "weights": result.model.weights,
        "bits_per_weight": _bits(found, result),
        "fingerprint": result.model.fingerprint,
        **{key: asdict(figure) if isinstance(figure, Interval) else figure for key, figure in result.figures.items()},
    }


def _bits(found: Evaluation, result: ModelResult) -> float:
    return 8 * result.model.nbytes / max(1, found.original.model.weights)


def _cell(key: str, result: ModelResult) -> str:
    figure, form = result.figures.get(key), FORMS[key][1]
    if figure is None:
        return ""
    if isinstance(figure, Interval):
        return f"{form(figure.value)} ({form(figure.low)} to {form(figure.high)})"
    return form(figure)


def _transformers_version() -> str | None:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None
