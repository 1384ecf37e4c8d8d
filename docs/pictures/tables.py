"""The tables of docs/benchmarks.md, so that a picture shows what is written there and nothing else."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "benchmarks.md"


def table(title: str) -> list[list[str]]:
    """The cells, head first, of the first table under a title of the page. Raises ValueError if there is none."""
    below = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    if len(lines) < 3:
        raise ValueError(f"{PAGE}: found no table under {title!r}")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *(row for row in rows[2:] if len(row) == len(rows[0]))]
