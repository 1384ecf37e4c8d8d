"""What a benchmark found, in words and tables: printed, stored beside the figures, and shown again by `nwc bench report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nwc_workflows.wording import table_text


@dataclass(frozen=True)
class Sheet:
    """A table of text."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]


Part = str | Sheet


def parts_text(parts: Sequence[Part]) -> str:
    """For people: paragraphs as they are, a blank line behind each table."""
    texts = [part if isinstance(part, str) else table_text(part.headers, part.rows) + "\n" for part in parts]
    return "\n".join(texts).rstrip()


def parts_data(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"text": part}
        if isinstance(part, str)
        else {"headers": list(part.headers), "rows": [[str(cell) for cell in row] for row in part.rows]}
        for part in parts
    ]


def parts_from(data: object) -> list[Part]:
    """From JSON. Raises TypeError for anything else than `parts_data` gives."""
    if not isinstance(data, list):
        raise TypeError
    found: list[Part] = []
    for part in data:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            found.append(part["text"])
            continue
        headers, rows = (part.get("headers"), part.get("rows")) if isinstance(part, Mapping) else (None, None)
        if (
            not isinstance(headers, list)
            or not isinstance(rows, list)
            or not all(_is_row(row, headers) for row in rows)
        ):
            raise TypeError
        found.append(Sheet([str(header) for header in headers], rows))
    return found


def _is_row(row: object, headers: Sequence[object]) -> bool:
    return isinstance(row, list) and len(row) == len(headers) and all(isinstance(cell, str) for cell in row)
