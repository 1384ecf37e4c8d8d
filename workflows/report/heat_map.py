"""Maps of a model, layer by layer: a row for each, a column for each kind of tensor, and how much there is of something.

Levels are steps of a scale, from 0 for the least; the page has a colour for each. What was stored without loss has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nwc_workflows.inspect import TensorSummary, Totals, totals
from nwc_workflows.report.layers import Grid, grids
from nwc_workflows.wording import bytes_text, name_text

LEVELS = 9
_Place = tuple[int, int]  # row, column


@dataclass(frozen=True)
class HeatCell:
    """Of a map: a level, None for no colour; what is read in it; and all about it in words."""

    text: str
    level: int | None
    title: str


@dataclass(frozen=True)
class HeatMap:
    """A map.

    Attributes:
        name: unique on the page.
        title: what is mapped.
        unit: what its figures are, and in short, behind a number.
        rows: label of each layer, and its cells; None where there is nothing.
        columns: labels.
        low, high: ends of the scale, as they are read.
        exact: whether some cells have no level because what they stand for was stored without loss.
    """

    name: str
    title: str
    unit: str
    short_unit: str
    rows: tuple[tuple[str, tuple[HeatCell | None, ...]], ...]
    columns: tuple[str, ...]
    low: str
    high: str
    exact: bool


@dataclass(frozen=True)
class LayerMaps:
    """Maps of the same layers.

    Attributes:
        prefix, suffix: what comes before all rows' labels, and behind all columns'.
        maps: one for each thing that is mapped.
        selected: whether kinds of tensors that are exact in all layers were left out.
    """

    prefix: str
    suffix: str
    maps: tuple[HeatMap, ...]
    selected: bool


@dataclass(frozen=True)
class _Kind:
    """What is mapped: a figure of tensors (None for no place on the scale), and how it reads.

    A scale spans `least` of its middle, or more: what is nearly the same everywhere is to look so.
    """

    key: str
    title: str
    unit: str
    short_unit: str
    logarithmic: bool
    least: float
    value: Callable[[Totals], float | None]
    short: Callable[[float], str]
    words: Callable[[Totals], str]


def layer_maps(tensors: Sequence[TensorSummary]) -> list[LayerMaps]:
    """Bits and errors of every group of layers; none of a model without layers.

    Errors are relative where all tensors with an error have a `power`, else absolute.
    """
    found = grids([t.name for t in tensors], tensors, lambda t: t.numel)
    inexact = [t for t in tensors if t.mse > 0]
    kinds = [_bits(bool(inexact))]
    if inexact:
        kinds.append(_RELATIVE if all(t.power is not None for t in inexact) else _ABSOLUTE)
    out = []
    for number, grid in enumerate(found, start=1):
        of_grid = _with_loss(grid)
        suffix = _common_end(of_grid.columns)
        maps = tuple(_map(f"map-{number}-{kind.key}", kind, of_grid, suffix) for kind in kinds)
        out.append(LayerMaps(grid.prefix, suffix, maps, selected=len(of_grid.columns) < len(grid.columns)))
    return out


def _bits(lossy: bool) -> _Kind:
    def value(of: Totals) -> float | None:
        return of.bits_per_weight if of.numel and (of.rms_error > 0 or not lossy) else None

    return _Kind(
        *("bits", "Bits", "bits per weight", "bits", False, 0.05, value),
        short=lambda bits: f"{bits:.2f}",
        words=lambda of: f"{of.bits_per_weight:.3f} bits per weight" if of.numel else "no weights",
    )


_RELATIVE = _Kind(
    *("error", "Error", "in percent of the weights, root mean square", "%", True, 0.2),
    value=lambda of: 100 * of.relative_error if of.relative_error and math.isfinite(of.relative_error) else None,
    short=lambda percent: f"{percent:#.2g}".rstrip("."),
    words=lambda of: f"error {100 * (of.relative_error or 0):.3g} %",
)
_ABSOLUTE = _Kind(
    *("error", "Error", "root mean square error", "", True, 0.2),
    value=lambda of: of.rms_error if of.rms_error and math.isfinite(of.rms_error) else None,
    short=lambda error: f"{error:.1e}",
    words=lambda of: f"root mean square error {of.rms_error:.3g}",
)


def _with_loss(grid: Grid[TensorSummary]) -> Grid[TensorSummary]:
    """Without kinds of tensors that are exact in all layers: they say nothing beside those that are not, if there are any."""
    lossy = {column for (_, column), of in grid.cells.items() if any(t.mse > 0 for t in of)}
    keep = sorted(lossy) or list(range(len(grid.columns)))
    cells = {(row, keep.index(column)): of for (row, column), of in grid.cells.items() if column in keep}
    return Grid(grid.prefix, grid.rows, tuple(grid.columns[column] for column in keep), cells)


def _map(name: str, kind: _Kind, grid: Grid[TensorSummary], suffix: str) -> HeatMap:
    found = {at: totals(of) for at, of in grid.cells.items()}
    values = {at: value for at, of in found.items() if (value := kind.value(of)) is not None}
    low, high = _ends(values.values(), kind)
    cells = {
        at: HeatCell(
            _text(of, values.get(at), kind), _level(values.get(at), low, high, kind), _title(grid.cells[at], of, kind)
        )
        for at, of in found.items()
    }
    return HeatMap(
        name,
        kind.title,
        kind.unit,
        kind.short_unit,
        tuple((row, tuple(cells.get((r, c)) for c in range(len(grid.columns)))) for r, row in enumerate(grid.rows)),
        tuple(column.removesuffix(suffix) for column in grid.columns),
        low=kind.short(low) if values else "",
        high=kind.short(high) if values else "",
        exact=len(values) < len(found),
    )


def _common_end(labels: Sequence[str]) -> str:
    """The last part of all labels, with its dot, if they share one and have more: ".weight"."""
    ends = {label.rpartition(".")[1:] if label.rpartition(".")[0] else ("", "") for label in labels}
    return "".join(ends.pop()) if len(ends) == 1 else ""


def _ends(values: Iterable[float], kind: _Kind) -> tuple[float, float]:
    """Of the scale."""
    found = sorted(values)
    if not found:
        return 0.0, 0.0
    low, high = found[0], found[-1]
    if kind.logarithmic:
        middle = math.sqrt(low * high)
        return min(low, middle / (1 + kind.least / 2)), max(high, middle * (1 + kind.least / 2))
    middle = (low + high) / 2
    return min(low, middle * (1 - kind.least / 2)), max(high, middle * (1 + kind.least / 2))


def _level(value: float | None, low: float, high: float, kind: _Kind) -> int | None:
    if value is None:
        return None
    scale = math.log if kind.logarithmic else float
    return min(LEVELS - 1, int(LEVELS * (scale(value) - scale(low)) / (scale(high) - scale(low))))


def _text(of: Totals, value: float | None, kind: _Kind) -> str:
    """In a cell; also of what has no place on the scale."""
    if value is not None:
        return kind.short(value)
    if kind.key == "bits":
        return kind.short(of.bits_per_weight) if of.numel else "0"
    return "∞" if of.rms_error else "0"


def _title(tensors: Sequence[TensorSummary], of: Totals, kind: _Kind) -> str:
    more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    kept = "" if of.rms_error else ", stored without loss"
    words = f"{kind.words(of)}{kept}, {of.numel:,} weights, {bytes_text(of.nbytes)}"
    return f"{name_text(tensors[0].name)}{more}: {words}"
