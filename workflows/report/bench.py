"""What a report of a benchmark says: curves with their intervals beside Shannon's bound or rivals, and the same in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nwc_workflows.bench.sheets import Sheet
from nwc_workflows.report.bench_codec import codec_sections
from nwc_workflows.report.bench_files import BenchFile, CodecFile, Environment, OtherFile
from nwc_workflows.report.bench_models import models_facts, models_figures, models_lead, models_sections
from nwc_workflows.report.content import Cell, Column, Fact, Figure, Heading, Section, Table

_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class BenchReport:
    """All that is said: heading, and sections with plots and tables."""

    heading: Heading
    sections: tuple[Section, ...]


def gather_bench(place: str, files: Sequence[BenchFile]) -> BenchReport:
    """Put it together.

    Args:
        place: where they are.
        files: results, one at least.
    """
    sections: list[Section] = []
    leads: list[str] = []
    figures: list[Figure] = []
    facts: list[Fact] = []
    for file in files:
        content = file.content
        if isinstance(content, OtherFile):
            sections.append(_printed(file))
        elif isinstance(content, CodecFile):
            sections += codec_sections(content)
            leads.append(_codec_lead(content))
        else:
            sections += models_sections(content)
            leads.append(models_lead(content))
            figures += models_figures(content)
            facts += models_facts(content)
        facts += [fact for fact in _environment(content.environment) if fact not in facts]
    name = place.rstrip("/").rpartition("/")[2]
    heading = Heading("benchmark", name, place, " ".join(leads), tuple(figures), tuple(facts))
    return BenchReport(heading, _renamed(sections))


def _printed(file: BenchFile) -> Section:
    """The tables that the benchmark printed."""
    sheets = [part for part in file.parts if isinstance(part, Sheet)]
    text = " ".join(part for part in file.parts if isinstance(part, str))
    tables = tuple(
        Table(f"{file.benchmark}-{number}", f"{file.benchmark}: table {number}", _columns(sheet), _rows(sheet))
        for number, sheet in enumerate(sheets, start=1)
    )
    return Section(file.benchmark, f"nwc bench {file.benchmark}", text, tables=tables)


def _columns(sheet: Sheet) -> tuple[Column, ...]:
    cells = list(zip(*sheet.rows, strict=True)) or [() for _ in sheet.headers]
    return tuple(
        Column(header, number=any(column) and all(not cell or _value(cell) is not None for cell in column))
        for header, column in zip(sheet.headers, cells, strict=True)
    )


def _rows(sheet: Sheet) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(Cell(str(cell), _value(cell)) for cell in row) for row in sheet.rows)


def _value(cell: object) -> float | None:
    """What a cell begins with, if that is a number, in its unit."""
    first, _, unit = str(cell).partition(" ")
    try:
        return float(first.replace(",", "")) * _UNITS.get(unit.split(" ")[0], 1.0)
    except ValueError:
        return None


def _renamed(sections: Sequence[Section]) -> tuple[Section, ...]:
    """With names that are unique on the page: several results may be of one kind."""
    seen: Counter[str] = Counter()

    def unique(name: str) -> str:
        seen[name] += 1
        return name if seen[name] == 1 else f"{name}-again-{seen[name]}"

    return tuple(
        replace(
            section,
            name=unique(section.name),
            plots=tuple(replace(plot, name=unique(plot.name)) for plot in section.plots),
            tables=tuple(replace(table, name=unique(table.name)) for table in section.tables),
        )
        for section in sections
    )


def _codec_lead(content: CodecFile) -> str:
    parts = []
    if content.sources:
        parts.append(f"samples of {len(content.sources)} source{'s' if len(content.sources) > 1 else ''}")
    if content.tensors:
        weights = sum(tensor.weights for tensor in content.tensors)
        parts.append(f"{len(content.tensors):,} tensors of {len(content.checkpoints)} checkpoints, {weights:,} weights")
    return f"Rate and distortion on {' and on '.join(parts) or 'nothing'}, all bytes counted."


def _environment(found: Environment) -> list[Fact]:
    machine = ", ".join(
        text for text in (found.cpu, f"{found.cores} cores" if found.cores else "", found.system) if text
    )
    packages = ", ".join(f"{name} {number}" for name, number in found.packages.items())
    rows = (("Machine", machine), ("Python", found.python), ("Packages", packages))
    return [Fact(label, text) for label, text in rows if text]
