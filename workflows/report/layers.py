"""Tensors as a grid: a row for each layer, a column for each kind of tensor that layers have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from nwc_workflows.report.page import Heat, HeatMap

T = TypeVar("T")
_NUMBER = re.compile(r"(?<=\.)\d{1,6}(?=\.)|(?<=\.)\d{1,6}$")
_LEAST_LAYERS, _MOST_COLUMNS, _MOST_ROWS = 2, 40, 400


def layer_of(name: str) -> tuple[str, int, str] | None:
    """(what is before the number, the number, what is behind it) of the name of a layer's tensor; None for others."""
    found = _NUMBER.search(name)
    if found is None:
        return None
    return name[: found.start()].rstrip("."), int(found[0]), name[found.end() :].lstrip(".")


def heat_maps(
    title: str,
    items: Sequence[tuple[str, T]],
    value: Callable[[T], float | None],
    text: Callable[[float], str],
    detail: Callable[[T], str],
    note: str,
    least_span: float,
) -> list[HeatMap]:
    """A map for each stack of layers, the largest first; none where there are no layers.

    Args:
        title: of them; several are told apart by what is before the number.
        items: (name, tensor).
        value: of a tensor; None for a hole.
        text: of a value.
        detail: all that is to be said of a tensor.
        note: a sentence.
        least_span: between the values of the two ends of the scale.
    """
    stacks: dict[str, dict[tuple[int, str], tuple[T, float]]] = {}
    for name, item in items:
        place, found = layer_of(name), value(item)
        if place is not None and found is not None:
            stacks.setdefault(place[0], {})[place[1], place[2]] = item, found
    made = []
    for stack, cells in sorted(stacks.items(), key=lambda pair: -len(pair[1])):
        rows = sorted({layer for layer, _ in cells})[:_MOST_ROWS]
        columns = list(dict.fromkeys(kind for _, kind in cells))[:_MOST_COLUMNS]
        if len(rows) < _LEAST_LAYERS:
            continue
        values = [found for _, found in cells.values()]
        middle, half = (min(values) + max(values)) / 2, max(max(values) - min(values), least_span) / 2
        low, high = middle - half, middle + half
        grid = {
            (rows.index(layer), columns.index(kind)): Heat((found - low) / (high - low), text(found), detail(item))
            for (layer, kind), (item, found) in cells.items()
            if layer in rows and kind in columns
        }
        names = [f"{stack}.{layer}" for layer in rows]
        made.append(
            (stack, HeatMap(title, names, [kind or "(itself)" for kind in columns], grid, text(low), text(high), note))
        )
    if len(made) == 1:
        return [made[0][1]]
    return [
        HeatMap(f"{title}: {stack}", one.rows, one.columns, one.cells, one.low, one.high, one.note)
        for stack, one in made[:4]
    ]
