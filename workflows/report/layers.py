"""Which layer a tensor belongs to and what kind of tensor it is, by its name alone.

The layer is the first part of the name that is a number (`layers.3`), else the first number at the end of a word that is not
the same in all names of that form (`block_3`). Other numbers that say what kind of tensor it is stay (`conv1`, `conv2`); those
that merely count (experts, running numbers) become `*`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_DIGITS = re.compile(r"(?<!\d)\d{1,9}(?!\d)")
_MANY = 8  # values of a number that tell kinds of tensors apart; what has more counts something
_USUAL = 0.5  # share of the layers that have such a value
_LEAST_CELLS = 4  # of a grid: less is said by a list
_LEAST_SHARE = 0.1  # of the weights that are in layers: smaller groups of layers are not worth a map


@dataclass(frozen=True)
class Grid(Generic[T]):
    """Layers that have kinds of tensors in common.

    Attributes:
        prefix: of all row labels, if they share one; they are numbers then.
        rows, columns: labels, of layers and of kinds of tensors.
        cells: what is in row and column, several things where numbers merely count.
    """

    prefix: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[int, int], tuple[T, ...]]


@dataclass(frozen=True)
class _Named:
    """A name cut at its layer: "layers.", 3, ".attn.weight"."""

    index: int
    prefix: str
    layer: int
    suffix: str


def grids(names: Sequence[str], items: Sequence[T], weight: Callable[[T], float]) -> list[Grid[T]]:
    """Layers of a model, those together that are alike; none if names have no numbers.

    Args:
        names: of the items, in stored order.
        items: what goes into cells.
        weight: of an item: groups with little of the whole are left out.
    """
    named = list(_cut(names))
    found = [_grid(group, items) for group in _alike(named)]
    weights = [sum(weight(item) for of_cell in grid.cells.values() for item in of_cell) for grid in found]
    least = _LEAST_SHARE * sum(weights)
    return [
        grid
        for grid, of_grid in zip(found, weights, strict=True)
        if of_grid >= least and len(grid.rows) > 1 and len(grid.rows) * len(grid.columns) >= _LEAST_CELLS
    ]


def _cut(names: Sequence[str]) -> Iterable[_Named]:
    """All names that have a layer."""
    forms: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        forms[_DIGITS.sub("#", name)].append(index)
    for of_form in forms.values():
        numbers = [[int(found[0]) for found in _DIGITS.finditer(names[index])] for index in of_form]
        at = _layer_position(names[of_form[0]], numbers)
        if at is None:
            continue
        layers = [row[at] for row in numbers]
        kept = [position == at or _tells_kinds(numbers, position, layers) for position in range(len(numbers[0]))]
        for index, row in zip(of_form, numbers, strict=True):
            prefix, suffix = _around(names[index], at, kept)
            yield _Named(index, prefix, row[at], suffix)


def _layer_position(name: str, numbers: Sequence[Sequence[int]]) -> int | None:
    spans = [found.span() for found in _DIGITS.finditer(name)]
    for at, (start, stop) in enumerate(spans):
        if (start == 0 or name[start - 1] in "./") and name[stop : stop + 1] in (".", "/"):
            return at
    for at, (start, stop) in enumerate(spans):
        ends_word = start > 0 and (name[start - 1].isalpha() or name[start - 1] in "_-")
        if (
            ends_word
            and name[stop : stop + 1] in ("", ".", "/", "_", "-", ":")
            and len({row[at] for row in numbers}) > 1
        ):
            return at
    return None


def _tells_kinds(numbers: Sequence[Sequence[int]], position: int, layers: Sequence[int]) -> bool:
    """Whether a number other than the layer's tells kinds of tensors apart, rather than counts something."""
    together = {(row[position], layer) for row, layer in zip(numbers, layers, strict=True)}
    counts = Counter(value for value, _ in together)
    return len(counts) <= _MANY and min(counts.values()) >= _USUAL * len(set(layers))


def _around(name: str, at: int, kept: Sequence[bool]) -> tuple[str, str]:
    """What is before and behind the layer's number, with * for numbers that are not kept."""
    parts, end = ["", ""], 0
    for position, found in enumerate(_DIGITS.finditer(name)):
        side = 0 if position <= at else 1
        parts[side] += name[end : found.start()]
        if position != at:
            parts[side] += found[0] if kept[position] else "*"
        end = found.end()
    parts[1] += name[end:]
    return parts[0], parts[1].lstrip("./")


def _alike(named: Sequence[_Named]) -> list[list[_Named]]:
    """Groups of prefixes that have a kind in common, directly or by way of others."""
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        while leader.setdefault(node, node) != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for n in named:
        leader[find(("suffix", n.suffix))] = find(("prefix", n.prefix))
    groups: dict[tuple[str, str], list[_Named]] = defaultdict(list)
    for n in sorted(named, key=lambda n: n.index):
        groups[find(("prefix", n.prefix))].append(n)
    return list(groups.values())


def _grid(group: Sequence[_Named], items: Sequence[T]) -> Grid[T]:
    prefixes = list(dict.fromkeys(n.prefix for n in group))
    rows = sorted({(prefixes.index(n.prefix), n.layer) for n in group})
    columns = list(dict.fromkeys(n.suffix for n in group))
    cells: dict[tuple[int, int], list[T]] = defaultdict(list)
    row_at = {row: at for at, row in enumerate(rows)}
    column_at = {column: at for at, column in enumerate(columns)}
    prefix_at = {prefix: at for at, prefix in enumerate(prefixes)}
    for n in group:
        cells[row_at[prefix_at[n.prefix], n.layer], column_at[n.suffix]].append(items[n.index])
    one = len(prefixes) == 1
    labels = tuple(str(layer) if one else f"{prefixes[at]}{layer}" for at, layer in rows)
    return Grid(prefixes[0] if one else "", labels, tuple(columns), {at: tuple(found) for at, found in cells.items()})
