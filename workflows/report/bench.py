"""The report on benchmarks: what `nwc bench` stored, the machine it ran on, and curves beside bounds and rivals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nwc_core.errors import FormatError
from nwc_core.strict_json import parse_json
from nwc_workflows.bench.sheets import Part, Sheet, parts_from
from nwc_workflows.report.page import Cell, Facts, Page, Plot, Section, Table
from nwc_workflows.report.plots import Series, chart

_DB_PER_BIT = 20 * math.log10(2)
# What a kind of model is judged by: the figure, its name, and how it becomes an error above zero.
_ERRORS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "language": ("kl", "KL divergence from the original, nats per token", lambda kl: kl),
    "encoder": ("error_db", "relative squared error of the embeddings", lambda db: 10 ** (db / 10)),
    "classifier": ("agreement", "part of the images answered differently", lambda agreement: 1 - agreement),
}


@dataclass(frozen=True)
class Result:
    """A benchmark that was stored.

    Attributes:
        path: where.
        benchmark: its name.
        data: all of it.
        parts: the same for people.
    """

    path: Path
    benchmark: str
    data: Mapping[str, Any]
    parts: Sequence[Part]


def find_results(what: str) -> list[Result]:
    """Those in a file or below a folder, by path; none if it is something else.

    Raises:
        FormatError: a file that says it is one, and is damaged.
    """
    path = Path(what)
    if "://" in what or not path.exists():
        return []
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    return [found for file in files if file.suffix == ".json" and (found := _read(file)) is not None]


def _read(path: Path) -> Result | None:
    try:
        data = parse_json(path.read_bytes(), str(path))
    except (FormatError, OSError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("benchmark"), str):
        return None
    try:
        return Result(path, data["benchmark"], data, parts_from(data.get("report")))
    except TypeError:
        raise FormatError(str(path), "no tables for people that can be read", "what nwc bench --out writes") from None


def bench_page(results: Sequence[Result]) -> Page:
    """Gather them.

    Raises:
        UsageError: matplotlib is not installed.
    """
    sections: list[Section] = []
    for number, result in enumerate(results, start=1):
        title = _title(result, number if len(results) > 1 else None)
        sections += _plots(result, title)
        text: list[str] = []
        tables = 0
        for part in result.parts:
            if isinstance(part, Sheet):
                tables += 1
                name = title if tables == 1 else f"{title}, continued"
                sections.append(_table(name, part, " ".join(text)))
                text = []
            else:
                text.append(part)
        sections.append(Facts(f"{title}: where and how", _circumstances(result), " ".join(text)))
    names = ", ".join(dict.fromkeys(result.benchmark for result in results))
    return Page("Benchmarks", f"{len(results)} results: {names}", [], sections, f"Made by nwc {version('nwc')}.")


def _title(result: Result, number: int | None) -> str:
    told = result.data.get("original") or result.data.get("arguments", {}).get("model") or ""
    of = told.get("uri", "") if isinstance(told, Mapping) else str(told)
    name = of.rstrip("/").rpartition("/")[2]
    text = result.benchmark + (f", {name}" if name else "")
    return text if number is None else f"{number}. {text}"


def _table(title: str, sheet: Sheet, note: str) -> Table:
    columns = list(zip(*sheet.rows, strict=True)) or [() for _ in sheet.headers]
    numeric = frozenset(
        number
        for number, column in enumerate(columns)
        if any(column) and all(not cell or _number(cell) is not None for cell in column)
    )
    rows = [
        [Cell(str(cell), _number(str(cell)) if number in numeric else None) for number, cell in enumerate(row)]
        for row in sheet.rows
    ]
    return Table(title, sheet.headers, rows, numeric, note)


def _number(text: object) -> float | None:
    """What a cell begins with, if that is a number."""
    first = str(text).split(" ")[0].replace(",", "").removesuffix("%").removesuffix("x")
    try:
        value = float(first)
    except ValueError:
        return None
    units = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "min": 60.0, "h": 3600.0}
    unit = str(text).split(" ")[1] if " " in str(text) else ""
    return value * units.get(unit, 1.0) if math.isfinite(value) else None


def _circumstances(result: Result) -> list[tuple[str, str]]:
    data = result.data
    pairs = [
        (f"option {name}", _said(value))
        for name, value in data.get("arguments", {}).items()
        if value not in (None, [], "")
    ]
    environment = data.get("environment", {})
    pairs += [(name, _said(value)) for name, value in environment.items()]
    pairs += [
        (name.replace("_", " "), _said(data[name]))
        for name in ("seed", "calibration_fingerprint")
        if data.get(name) is not None
    ]
    return [*pairs, ("file", result.path.name)]


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plots(result: Result, title: str) -> list[Section]:
    try:
        if result.benchmark == "codec":
            return _of_codec(result.data, title)
        if result.benchmark == "models":
            return _of_models(result.data, title)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            str(result.path), f"no figures to draw ({type(error).__name__}: {error})", "what nwc bench --out writes"
        ) from error
    return []


def _of_codec(data: Mapping[str, Any], title: str) -> list[Section]:
    """Curves of each source over its bound; of tensors over that of Gaussians."""
    made: list[Section] = []
    for source in data["sources"]:
        series = [
            Series(label, [p["bits"] for p in points], [-10 * math.log10(p["mse"]) for p in points])
            for label, points in _by(source["points"], "contender").items()
        ]
        bound = sorted((p["shannon_bits"], -10 * math.log10(p["mse"])) for p in source["points"])
        series.append(Series("Shannon's bound", [bits for bits, _ in bound], [db for _, db in bound], theory=True))
        alt = f"Signal to noise over bits per weight of {len(series) - 1} codecs on {source['title']}, beside Shannon's bound"
        drawn = chart(series, "bits per weight, all bytes counted", "signal to noise, dB", alt)
        made.append(
            Plot(f"{title}: {source['title']}", drawn, "Higher is better; what is left to the bound is in the table.")
        )
    summary = [entry for entry in data["summary"] if entry.get("log2_distortion") is not None]
    if summary:
        series = [
            Series(label, [p["bits"] for p in points], [-10 * math.log10(2) * p["log2_distortion"] for p in points])
            for label, points in _by(summary, "label").items()
        ]
        ends = [min(p["bits"] for p in summary), max(p["bits"] for p in summary)]
        series.append(
            Series(
                "Shannon's bound, independent Gaussian weights", ends, [_DB_PER_BIT * end for end in ends], theory=True
            )
        )
        names = ", ".join(checkpoint["name"] for checkpoint in data["checkpoints"])
        alt = f"Signal to noise over bits per weight on the tensors of {names}"
        drawn = chart(series, "bits per weight, all bytes counted", "signal to noise, dB", alt)
        made.append(Plot(f"{title}: tensors of {names}", drawn, "Means over the tensors, by size; higher is better."))
    return made


def _of_models(data: Mapping[str, Any], title: str) -> list[Section]:
    """Error of the outputs over bits: ours, and what else there is."""
    key, name, convert = _ERRORS[data["kind"]]
    series = []
    for method, points in _by(data["points"], "method").items():
        found = sorted((p["bits_per_weight"], *(convert(v) for v in _interval(p["figures"][key]))) for p in points)
        found = [row for row in found if row[1] > 0]
        if found:
            bits, values, low, high = map(list, zip(*found, strict=True))
            floor = [max(min(a, b), value * 1e-3) for value, a, b in zip(values, low, high, strict=True)]
            series.append(Series(method, bits, values, floor, [max(a, b) for a, b in zip(low, high, strict=True)]))
    if not series:
        return []
    alt = f"{name} over bits per weight of {len(series)} methods"
    drawn = chart(series, f"bits per weight, {data['scope']}", name, alt, log=True)
    return [Plot(title, drawn, f"{name}; lower is better, bars are 95 % intervals.")]


def _interval(figure: Any) -> tuple[float, float, float]:
    """(value, low, high) of a figure of an evaluation."""
    if isinstance(figure, Mapping):
        return float(figure["value"]), float(figure["low"]), float(figure["high"])
    return float(figure), float(figure), float(figure)


def _by(entries: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault(str(entry[key]), []).append(entry)
    return groups
