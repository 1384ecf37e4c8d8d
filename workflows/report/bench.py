"""What a report of a benchmark says: curves with their intervals beside Shannon's bound or rivals, and the same in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nwc_workflows.report.bench_codec import codec_sections
from nwc_workflows.report.bench_files import BenchFile, CodecFile, Environment
from nwc_workflows.report.bench_models import models_facts, models_figures, models_lead, models_sections
from nwc_workflows.report.content import Fact, Figure, Heading, Section


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
        if isinstance(content, CodecFile):
            sections += codec_sections(content)
            leads.append(_codec_lead(content))
        else:
            sections += models_sections(content)
            leads.append(models_lead(content))
            figures += models_figures(content)
            facts += models_facts(content)
        facts += [fact for fact in _environment(content.environment) if fact not in facts]
    name = place.rstrip("/").rpartition("/")[2]
    return BenchReport(
        Heading("benchmark", name, place, " ".join(leads), tuple(figures), tuple(facts)), tuple(sections)
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
