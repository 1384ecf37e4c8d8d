"""A page and what it is made of, and the one HTML file that it becomes.

Nothing is loaded: style and script are in the file, and its own security policy forbids all else. The script runs by the
digest of its text, so that no name of a tensor, whatever it holds, can become one. The same page gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Card:
    """A figure that is worth a glance: what it is, what it comes to, and a few words besides."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is shown.
        sort: what rows are sorted by; the text if None.
        bar: length of a bar behind the text, as a part of the cell.
        tone: "good", "bad", or neither.
    """

    text: str
    sort: float | str | None = None
    bar: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted and, if they are many, searched.

    Attributes:
        numeric: positions of the columns of numbers.
        note: a sentence above it.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()
    note: str = ""
    kind: str = field(default="table", init=False)

    @property
    def searchable(self) -> bool:
        return len(self.rows) > 8  # fewer are seen at a glance


@dataclass(frozen=True)
class Plot:
    """A drawing: an SVG element, what it shows in a sentence, and the figures in words for those who do not see it."""

    title: str
    svg: str
    note: str
    kind: str = field(default="plot", init=False)


@dataclass(frozen=True)
class Heat:
    """A cell of a heat map: where it is from low, 0, to high, 1; what stands in it; and all that is known of it."""

    level: float
    text: str
    detail: str


@dataclass(frozen=True)
class HeatMap:
    """A grid of colours.

    Attributes:
        rows, columns: names.
        cells: by (row, column); there may be holes.
        low, high: what the ends of the scale stand for.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: dict[tuple[int, int], Heat]
    low: str
    high: str
    note: str = ""
    kind: str = field(default="heat", init=False)


@dataclass(frozen=True)
class Facts:
    """Names and values, one below the other."""

    title: str
    pairs: Sequence[tuple[str, str]]
    note: str = ""
    kind: str = field(default="facts", init=False)


Section = Table | Plot | HeatMap | Facts


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: what it is about.
        subtitle: a line below.
        cards: the figures that matter.
        sections: all else, in order.
        made_by: what made it.
    """

    title: str
    subtitle: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    made_by: str


def render(page: Page) -> str:
    """The HTML file."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    anchors = [f"s{number}" for number in range(len(page.sections))]
    return str(
        _template().render(
            page=page,
            sections=list(zip(anchors, page.sections, strict=True)),
            style=_asset("report.css"),
            script=script,
            digest=digest,
        )
    )


def _asset(name: str) -> str:
    return resources.files("nwc_workflows.report").joinpath("assets", name).read_text("utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html.j2"))
