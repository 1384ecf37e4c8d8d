"""A tree with columns, drawn as text: as wide as the terminal, and as wide as it needs to be in a pipe or a file.

Where a terminal is narrow, columns go one after the other, the least important first; names are cut last.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nwc_workflows.name_tree import Node
from nwc_workflows.wording import name_text

T = TypeVar("T")

_GAP = "  "
_MIN_NAME = 24  # characters that names keep before the last column goes
_WANTED_NAME = 48  # characters of names for whose sake columns go
_BAR = 10  # characters
_EIGHTHS = " ▏▎▍▌▋▊▉"
# For terminals that know no Unicode.
_ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": "~", "█": "#", **dict.fromkeys(_EIGHTHS[1:], " ")})


@dataclass(frozen=True)
class Column:
    """A column behind the names.

    Attributes:
        header: its title.
        rank: the higher, the sooner it goes where there is no room; 0 stays.
        right: whether its cells are numbers.
        style: of its cells, in the words of rich.
    """

    header: str
    rank: int = 0
    right: bool = True
    style: str = ""


@dataclass(frozen=True)
class Line(Generic[T]):
    """One line of a drawn tree: guides and label, the node, and whether it stands for all that is below it."""

    guides: str
    label: str
    node: Node[T]
    sums_up: bool


def tree_lines(root: Node[T], depth: int | None = None) -> Iterator[Line[T]]:
    """The lines of a tree, from above; `depth` levels of it, or all."""

    def below(node: Node[T], guides: str, level: int) -> Iterator[Line[T]]:
        for i, child in enumerate(node.children):
            last = i == len(node.children) - 1
            own, further = ("", "") if level == 1 else ("└─ ", "   ") if last else ("├─ ", "│  ")
            cut = depth is not None and level >= depth
            yield Line(guides + own, name_text(child.label), child, not child.items or (cut and bool(child.children)))
            if not cut:
                yield from below(child, guides + further, level + 1)

    yield from below(root, "", 1)


def bar_text(share: float) -> str:
    """A share of 1 as a bar of ten characters, in steps of an eighth of one."""
    eighths = round(max(0.0, min(1.0, share)) * 8 * _BAR)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def print_tree(
    columns: Sequence[Column], rows: Sequence[tuple[str, str, Sequence[str]]], title: str = "tensor"
) -> None:
    """Print lines with columns to stdout.

    Args:
        columns: behind the names.
        rows: guides, label and cells of each line; fit for a terminal, see `name_text`.
        title: of the names.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, width=None if terminal else 1_000_000)
    room = shutil.get_terminal_size().columns if terminal else None
    named = max(cell_len(guides + label) for guides, label, _ in [("", title, ()), *rows])
    widths = [
        max(cell_len(column.header), *(cell_len(cells[i]) for _, _, cells in rows), 0)
        for i, column in enumerate(columns)
    ]
    kept = _kept(columns, widths, named, room)
    if room is not None:
        named = max(1, min(named, room - sum(widths[i] + len(_GAP) for i in kept)))

    def line(guides: str, label: str, cells: Sequence[str], style: str = "") -> Text:
        text = Text().append(guides, style="dim").append(label, style=style)
        text.truncate(named, overflow="ellipsis", pad=True)
        for i in kept:
            padding = " " * (widths[i] - cell_len(cells[i]))
            cell = padding + cells[i] if columns[i].right else cells[i] + padding
            text.append(_GAP).append(cell, style=style or columns[i].style)
        text.rstrip()
        return text

    lines = [line("", title, [column.header for column in columns], "dim"), *(line(*row) for row in rows)]
    for drawn in lines:
        if console.options.ascii_only:
            encoding = sys.stdout.encoding or "ascii"
            print(drawn.plain.translate(_ASCII).encode(encoding, "replace").decode(encoding))
        else:
            console.print(drawn, soft_wrap=True)


def _kept(columns: Sequence[Column], widths: Sequence[int], named: int, room: int | None) -> list[int]:
    """Which columns there is room for."""
    kept = list(range(len(columns)))
    if room is None:
        return kept
    for i in sorted(kept, key=lambda i: -columns[i].rank):
        wanted = min(named, _WANTED_NAME if columns[i].rank > 1 else _MIN_NAME)
        if columns[i].rank and wanted + sum(widths[j] + len(_GAP) for j in kept) > room:
            kept.remove(i)
    return kept
