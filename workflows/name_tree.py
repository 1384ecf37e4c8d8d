"""A tree of dotted names in which numbered siblings that are alike are one line: layers.0…31.

The tree holds items of any type at its leaves; a leaf that stands for many layers holds one of each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_DEPTH = 32  # of dots that count: names come from strangers, and the tree is walked recursively
_MAX_DIGITS = 9  # of a number; a longer run of digits is a name
_MAX_RANGES = 3  # in a label; of more the first two and the last are shown


@dataclass
class Node(Generic[T]):
    """A part of the names.

    Attributes:
        label: the part, or several joined by dots where nothing branches; numbers of alike siblings as "0…31".
        items: what has exactly this name, one for each name that was folded into it; empty for a mere prefix.
        children: below it, in order of first appearance.
        contents: equal for nodes with equal contents, whatever their own labels.
    """

    label: str
    items: list[T] = field(default_factory=list)
    children: list[Node[T]] = field(default_factory=list)
    contents: int = 0

    def below(self) -> Iterator[T]:
        """All items here and further down."""
        yield from self.items
        for child in self.children:
            yield from child.below()


def build_tree(items: Sequence[tuple[str, T]], kind: Callable[[T], Hashable]) -> Node[T]:
    """The tree of these names; its root has no label.

    Args:
        items: (name, item), the names unique.
        kind: equal for items that may share a line if their names differ by a number only.
    """
    root: Node[T] = Node("")
    places: dict[tuple[str, ...], Node[T]] = {(): root}
    for name, item in items:
        parts = tuple(name.split(".", MAX_DEPTH))
        for depth in range(1, len(parts) + 1):
            if parts[:depth] not in places:
                node: Node[T] = Node(parts[depth - 1])
                places[parts[:depth]] = node
                places[parts[: depth - 1]].children.append(node)
        places[parts].items.append(item)
    _fold(root, kind, {})
    root.children = [_joined(child) for child in root.children]
    return root


def _fold(node: Node[T], kind: Callable[[T], Hashable], known: dict[Hashable, int]) -> None:
    """Merge alike siblings, from the leaves up.

    Subtrees of thousands of tensors are compared by one number, their `contents`; `known` holds those given so far.
    """
    groups: dict[Hashable, list[Node[T]]] = {}
    for child in node.children:
        _fold(child, kind, known)
        numbered = child.label.isdecimal() and len(child.label) <= _MAX_DIGITS
        groups.setdefault((child.contents, None if numbered else child.label), []).append(child)
    node.children = [_merged(alike, _numbers(alike)) for alike in groups.values()]
    below = tuple((child.label, child.contents) for child in _sorted_children(node))
    node.contents = known.setdefault((*map(kind, node.items), below), len(known))


def _sorted_children(node: Node[T]) -> list[Node[T]]:
    """In an order that equal contents share: a layer spread over two shards has its tensors in another one."""
    return sorted(node.children, key=lambda child: (child.label, child.contents))


def _merged(alike: Sequence[Node[T]], label: str) -> Node[T]:
    """One node for nodes with equal contents."""
    if len(alike) == 1:
        return alike[0]
    rows = zip(*map(_sorted_children, alike), strict=True)
    children = {id(row[0]): _merged(row, row[0].label) for row in rows}
    ordered = [children[id(child)] for child in alike[0].children]
    return Node(label, [item for node in alike for item in node.items], ordered, alike[0].contents)


def _numbers(alike: Sequence[Node[T]]) -> str:
    """The labels of numbered nodes as ranges."""
    if len(alike) == 1:
        return alike[0].label
    numbers = sorted(int(node.label) for node in alike)
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}…{run[-1]}" for run in runs]
    return ", ".join(texts if len(texts) <= _MAX_RANGES else [*texts[:2], f"… {texts[-1]}"])


def _joined(node: Node[T]) -> Node[T]:
    """A chain of prefixes without branches becomes one node."""
    while not node.items and len(node.children) == 1:
        (only,) = node.children
        node = Node(f"{node.label}.{only.label}", only.items, only.children, only.contents)
    node.children = [_joined(child) for child in node.children]
    return node
