"""Whole models, by all methods: what their outputs lose for how many bits."""

from __future__ import annotations

from collections.abc import Sequence

from nwc_workflows.bench.models_plot import ERRORS
from nwc_workflows.evaluation.report import FORMS
from nwc_workflows.report.bench_files import ModelsFile, Point, Range
from nwc_workflows.report.content import Cell, Column, Fact, Figure, Section, Table, number
from nwc_workflows.report.job import counts_text
from nwc_workflows.report.plots import Plot, Series
from nwc_workflows.wording import bytes_text, duration_text, name_text

_LEAST = 1e-3  # of a value: where an interval that reaches zero ends on a logarithmic axis


def models_lead(content: ModelsFile) -> str:
    """A sentence."""
    model = name_text(str(content.original.get("model", "a model")).rstrip("/").rpartition("/")[2])
    methods = len({point.method for point in content.points})
    over = "all bytes counted" if content.scope == "whole" else "over its linear layers"
    return f"{model}, compressed by {methods} methods at {len(content.points)} settings, {over}."


def models_figures(content: ModelsFile) -> list[Figure]:
    """What the original is."""
    bits = f"{8 * content.scope_bytes / content.scope_weights:.1f} bits each"
    return [
        Figure(f"{content.scope_weights:,}", "weights", bits),
        Figure(bytes_text(content.scope_bytes), "before"),
        Figure(f"{len(content.points):,}", "settings", f"of {len({point.method for point in content.points})} methods"),
    ]


def models_facts(content: ModelsFile) -> list[Fact]:
    """Model, and data that its outputs were compared on."""
    return [
        Fact("Model", name_text(str(content.original.get("model", "")))),
        Fact("Data", counts_text(content.data), str(content.data.get("sha256", ""))),
    ]


def models_sections(content: ModelsFile) -> list[Section]:
    """The comparison, and what was left out."""
    axis = ERRORS[content.task][1]
    labels = list(dict.fromkeys(point.method for point in content.points))
    series = tuple(
        found
        for number, label in enumerate(labels)
        if (found := _series(label, [p for p in content.points if p.method == label], content, number)) is not None
    )
    over = "all bytes of the model" if content.scope == "whole" else "linear layers alone"
    plot = Plot(
        "models", "Error of the outputs against size", f"bits per weight, {over}", axis, series, logarithmic=True
    )
    note = "Lower left is better. Bars are 95 % confidence intervals; a line joins those settings of a method that no cheaper "
    note += "one of it beats."
    sections = [Section("methods", "Methods", "", (plot,), (_table(content),), note)]
    if content.left_out:
        rows = tuple((Cell(name_text(x.name)), Cell(name_text(x.setting)), Cell(x.reason)) for x in content.left_out)
        columns = (Column("Method", code=True), Column("Setting"), Column("Why", words=True))
        table = Table("left-out-table", "What was left out", columns, rows)
        sections.append(Section("left-out", "What was left out", "", (), (table,)))
    return sections


def _series(label: str, points: Sequence[Point], content: ModelsFile, at: int) -> Series | None:
    """None if nothing is known, or no error is above zero, which a logarithmic axis has no place for."""
    found = sorted(
        ((p.bits_per_weight, *error, p.setting) for p in points if (error := _error(p, content)) and error[0] > 0),
        key=lambda entry: entry[0],
    )
    if not found:
        return None
    bits, values, lows, highs, _ = zip(*found, strict=True)
    tips = tuple(
        f"{name_text(label)}, {name_text(setting)}: {x:.3f} bits per weight, error {value:.3g} ({low:.3g} to {high:.3g})"
        for x, value, low, high, setting in found
    )
    best = tuple(i for i, value in enumerate(values) if value == min(values[: i + 1]))
    low = tuple(max(end, value * _LEAST) for end, value in zip(lows, values, strict=True))
    return Series(name_text(label), bits, values, tips, low, highs, number=at, joined=best)


def _error(point: Point, content: ModelsFile) -> tuple[float, float, float] | None:
    """(value, low, high) of what the plot shows."""
    key, _, convert = ERRORS[content.task]
    figure = point.figures.get(key)
    if not isinstance(figure, Range) or figure.value is None or figure.low is None or figure.high is None:
        return None
    low, high = sorted((convert(figure.low), convert(figure.high)))
    return convert(figure.value), low, high


def _table(content: ModelsFile) -> Table:
    keys = [key for key in FORMS if any(key in point.figures for point in content.points)]
    columns = (
        *(Column("Method", code=True), Column("Setting", words=True)),
        *(Column(label, number=True) for label in ("Bytes", "Bits", "Of coded tensors", "Time")),
        *(Column(FORMS[key][0][:1].upper() + FORMS[key][0][1:], number=True) for key in keys),
    )
    rows = tuple(
        (
            *(Cell(name_text(p.method)), Cell(name_text(p.setting)), Cell(bytes_text(p.bytes), p.bytes)),
            *(number(p.bits_per_weight, ".3f"), number(p.coded_bits_per_weight, ".3f")),
            Cell(duration_text(p.seconds), p.seconds),
            *(_figure(key, p) for key in keys),
        )
        for p in content.points
    )
    return Table("methods-table", "All methods, with 95 % confidence intervals", columns, rows, search="Find methods")


def _figure(key: str, point: Point) -> Cell:
    figure, form = point.figures.get(key), FORMS[key][1]
    if isinstance(figure, Range):
        if figure.value is None:
            return Cell("")
        if figure.low is None or figure.high is None:
            return Cell(form(figure.value), figure.value)
        return Cell(f"{form(figure.value)} ({form(figure.low)} to {form(figure.high)})", figure.value)
    return Cell("") if figure is None else Cell(form(figure), figure)
