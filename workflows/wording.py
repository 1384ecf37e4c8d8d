"""Bytes, rates, durations and tables in words: the one place that decides how figures look."""

from __future__ import annotations

import math
from collections.abc import Sequence


def bytes_text(nbytes: float) -> str:
    """Decimal units, as storage is sold: 999 B, 1.50 kB, 90.9 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(nbytes) < 999.5 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "B" else f"{_three_digits(nbytes)} {unit}"


def amount_text(amount: float, unit: str) -> str:
    """An amount of bytes ("B") or of anything counted ("tensors")."""
    return bytes_text(amount) if unit == "B" else f"{amount:,.0f} {unit}"


def count_text(count: int, thing: str) -> str:
    """1 task, 2 tasks, 10,000 tasks."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def rate_text(amount: float, seconds: float, unit: str) -> str:
    """Amount per second, unit as in amount_text."""
    rate = amount / max(seconds, 1e-9)
    return f"{bytes_text(rate)}/s" if unit == "B" else f"{_three_digits(rate)} {unit}/s"


def duration_text(seconds: float) -> str:
    """0.8 s, 42 s, 3 min 05 s, 2 h 04 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _three_digits(value: float) -> str:
    decimals = max(0, 2 - math.floor(math.log10(max(abs(value), 1))))
    return f"{value:,.{decimals}f}"


def table_text(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, numbers to the right, nothing cut off: tensor names are long, and logs have no width."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [all(cell[:1].isdigit() or cell[:1] in "-+" for cell in column) for column in zip(*cells, strict=True)]
    right = numeric or [False] * len(headers)

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), "  ".join("-" * width for width in widths), *map(line, cells)])


def places_text(text: str) -> str:
    """A text with places on this machine as paths, as people write them, not as URIs."""
    return text.replace("file:///", "/")


def name_text(name: str) -> str:
    """A name out of a file, fit for a line of text: quoted where it holds line breaks or a terminal's control codes."""
    return name if name and name.isprintable() else repr(name)
