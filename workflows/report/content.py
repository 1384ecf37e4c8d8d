"""What every report is made of: a heading with figures, facts, tables. Plain data; `page` decides how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nwc_workflows.report.plots import Plot
from nwc_workflows.wording import bytes_text

GB = 1_000_000_000
DEFAULT_PRICE = 0.023  # dollars of a GB and month: what a GB of S3's standard storage costs


@dataclass(frozen=True)
class Price:
    """What a GB (10**9 bytes) costs in a month; `sign` of the currency, "" if that is not known."""

    of_gb: float = DEFAULT_PRICE
    sign: str = "$"

    def money_text(self, nbytes: float) -> str:
        """What so many bytes cost in a month; two digits at least, however little it is."""
        amount = self.of_gb * nbytes / GB
        digits = f"{abs(amount):,.2f}" if abs(amount) >= 0.1 or not amount else _two_digits(abs(amount))
        return f"{'−' if amount < 0 else ''}{self.sign}{digits}"

    @property
    def text(self) -> str:
        return f"{self.sign}{self.of_gb:g} per GB and month"


def _two_digits(amount: float) -> str:
    """0.0018; what is next to nothing as such."""
    return f"{float(f'{amount:.2g}'):.12f}".rstrip("0") if amount >= 1e-9 else "0.00"


@dataclass(frozen=True)
class Figure:
    """A number that stands out: "7.11×", "smaller", and what it is about."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """A line of a list; `code` is a digest or the like, shown after the text."""

    label: str
    text: str
    code: str = ""


@dataclass(frozen=True)
class Heading:
    """What a report is about.

    Attributes:
        kind: "artifact", "catalog" or "benchmark".
        name: short.
        place: where it is.
        lead: one sentence with all that matters.
        figures: the same in numbers.
        facts: more.
    """

    kind: str
    name: str
    place: str
    lead: str
    figures: tuple[Figure, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Column:
    """Of a table.

    Attributes:
        label: its heading.
        number: whether it holds numbers, which stand right and are sorted by value.
        code: whether it holds names out of files.
        words: whether it holds sentences, which want some width.
        note: what the heading means, where that is not plain.
    """

    label: str
    number: bool = False
    code: bool = False
    words: bool = False
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        text: what is read.
        value: what a number is sorted by; None for no number: sorted behind all others.
        bar: 0 to 100, length of a bar below the text; None for none.
        tone: "good", "bad", "quiet" or "" for none of them.
    """

    text: str
    value: float | None = None
    bar: int | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming the row.

    Attributes:
        name: unique on the page.
        caption: what it shows, for those who do not see it.
        columns, rows: as wide as each other.
        search: what the search field asks for; "" for none.
        sortable: whether columns can be sorted by.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    search: str = ""
    sortable: bool = True


@dataclass(frozen=True)
class Section:
    """A part of a page: `name` unique on it; text, plots, a note on them, tables."""

    name: str
    title: str
    text: str = ""
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Saved:
    """Bytes before and after, and what that saves."""

    before: int
    after: int
    price: Price = field(default_factory=Price)

    @property
    def times(self) -> float | None:
        """How many times smaller; None for nothing."""
        return self.before / self.after if self.after and self.before else None

    @property
    def lead(self) -> str:
        """A sentence."""
        if self.times is None:
            return f"{bytes_text(self.after)}."
        return f"{bytes_text(self.before)} became {bytes_text(self.after)}, {self.times:.2f} times smaller"

    def figures(self) -> tuple[Figure, ...]:
        """Times smaller, bytes, money; none without bytes before."""
        if self.times is None:
            return ()
        return (
            Figure(f"{self.times:.2f}×", "smaller"),
            Figure(bytes_text(self.after), "stored", f"of {bytes_text(self.before)}"),
            Figure(self.price.money_text(self.before - self.after), "saved a month", f"at {self.price.text}"),
        )


def bars(values: Sequence[float]) -> list[int]:
    """Lengths in percent of the largest."""
    most = max(values, default=0.0)
    return [round(100 * value / most) if most > 0 else 0 for value in values]


def number(value: float | None, form: str) -> Cell:
    """A cell with a number, or an empty one."""
    return Cell("") if value is None else Cell(format(value, form), value)
