"""Rate and distortion of codecs: on sources whose bound is known, on tensors, and against each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from nwc_workflows.report.bench_files import CodecFile, Comparison, Range, Source, SourcePoint, Summary
from nwc_workflows.report.content import Cell, Column, Section, Table, number
from nwc_workflows.report.plots import Plot, Series, shannon_gaussian
from nwc_workflows.wording import name_text

_DECIBEL = 10 * math.log10(2)  # of a factor of two
_RATE, _ERROR = "bits per weight, all bytes counted", "relative squared error, dB"
_ASIDE = 0.04  # bits per weight between intervals at one rate


def codec_sections(content: CodecFile) -> list[Section]:
    """A section for each source, one for the tensors, one for the comparison; those that there is something in."""
    sections = [_source(source, number) for number, source in enumerate(content.sources, start=1)]
    if content.summary:
        sections.append(_tensors(content))
    if content.comparison:
        sections.append(_comparison(content.comparison))
    return sections


def _source(source: Source, at: int) -> Section:
    labels = list(dict.fromkeys(point.contender for point in source.points))
    by_label = {label: [p for p in source.points if p.contender == label] for label in labels}
    shape = " × ".join(f"{size:,}" for size in source.shape)
    bound = sorted({(point.shannon_bits, 10 * math.log10(point.mse)) for point in source.points})
    curves = tuple(_curve(label, points, n) for n, (label, points) in enumerate(by_label.items()))
    gaps = tuple(
        Series(name_text(label), *_xy((p.bits, p.gap) for p in points), _tips(label, points), number=n)
        for n, (label, points) in enumerate(by_label.items())
    )
    name = f"source-{at}"
    plots = (
        Plot(
            *(f"{name}-rate", "Rate and distortion", _RATE, _ERROR, curves, "Shannon’s bound"),
            *_xy(bound),
        ),
        Plot(f"{name}-gap", "Distance to Shannon’s bound", _RATE, "bits per weight above the bound", gaps, zero=True),
    )
    rows = tuple(
        (
            *(Cell(name_text(p.contender)), number(p.wanted, "g"), number(p.bits, ".4f"), number(p.mse, ".3e")),
            *(number(p.shannon_bits, ".4f"), number(p.gap, ".4f")),
        )
        for p in source.points
    )
    columns = (
        Column("Codec", code=True),
        *(
            Column(label, number=True)
            for label in ("Asked for", "Bits", "Squared error", "Shannon’s bound", "Above it")
        ),
    )
    table = Table(f"{name}-table", f"{source.title}: rates and errors", columns, rows)
    return Section(
        name, f"{name_text(source.title)} samples", f"{shape} independent samples of variance 1.", plots, (table,)
    )


def _curve(label: str, points: Sequence[SourcePoint], at: int) -> Series:
    xy = _xy((p.bits, 10 * math.log10(p.mse)) for p in points)
    return Series(name_text(label), *xy, _tips(label, points), number=at)


def _tips(label: str, points: Sequence[SourcePoint]) -> tuple[str, ...]:
    return tuple(
        f"{name_text(label)}: {p.bits:.3f} bits per weight, {10 * math.log10(p.mse):.2f} dB, {p.gap:.4f} bits above the bound"
        for p in points
    )


def _tensors(content: CodecFile) -> Section:
    known = [row for row in content.summary if row.log2_distortion is not None]
    labels = list(dict.fromkeys(row.label for row in known))
    by_label = {label: [row for row in known if row.label == label] for label in labels}
    curves = tuple(
        Series(name_text(label), *_xy((r.bits, _decibel(r)) for r in rows), _summary_tips(rows), number=n)
        for n, (label, rows) in enumerate(by_label.items())
    )
    gaps = []
    for n, (label, rows) in enumerate(by_label.items()):
        whole = [(r.bits, *ends) for r in rows if (ends := _ends(r.gap_weighted))]
        x, y, low, high = zip(*whole, strict=True) if whole else ((), (), (), ())
        gaps.append(Series(name_text(label), x, y, low=low, high=high, number=n, band=True))
    bound = shannon_gaussian([row.bits for row in known])
    note = "Means over tensors by their sizes; bands are 95 % confidence intervals. Real weights are not independent Gaussian "
    note += "numbers: a codec that knows their structure can be below the bound."
    plots = (
        Plot(
            *("tensors-rate", "Rate and distortion", _RATE, _ERROR, curves, "Shannon’s bound if Gaussian", *bound),
        ),
        Plot(
            "tensors-gap", "Distance to the Gaussian’s bound", _RATE, "bits per weight above it", tuple(gaps), zero=True
        ),
    )
    cells = tuple(
        (
            *(Cell(name_text(r.label)), number(r.wanted, "g"), number(r.bits, ".4f"), number(_decibel(r), ".2f")),
            _interval(r.gap_weighted),
        )
        for r in known
    )
    columns = (
        Column("Codec", code=True),
        *(Column(label, number=True) for label in ("Asked for", "Bits", "Error, dB", "Above the bound (95 %)")),
    )
    weights = sum(tensor.weights for tensor in content.tensors)
    names = ", ".join(name_text(checkpoint.name) for checkpoint in content.checkpoints[:5])
    more = f" and {len(content.checkpoints) - 5} more" if len(content.checkpoints) > 5 else ""
    text = f"{len(content.tensors):,} tensors of {names}{more}: {weights:,} weights."
    if content.coded_losslessly:
        left_out = ", ".join(map(name_text, content.coded_losslessly[:5]))
        text += f" Left out, since coded without loss: {left_out}{' …' if len(content.coded_losslessly) > 5 else ''}."
    table = Table("tensors-table", "Rates and errors over all tensors", columns, cells)
    return Section("tensors-title", "Tensors", text, plots, (table,), note)


def _decibel(row: Summary) -> float:
    return _DECIBEL * (row.log2_distortion or 0.0)


def _summary_tips(rows: Sequence[Summary]) -> tuple[str, ...]:
    return tuple(f"{name_text(r.label)}: {r.bits:.3f} bits per weight, {_decibel(r):.2f} dB" for r in rows)


def _comparison(found: Sequence[Comparison]) -> Section:
    plots = []
    labels = list(dict.fromkeys(row.label for row in found))
    for at, baseline in enumerate(dict.fromkeys(row.baseline for row in found), start=1):
        series = []
        for n, label in enumerate(labels):
            rows = [row for row in found if (row.label, row.baseline) == (label, baseline) and row.wanted is not None]
            shift = _ASIDE * (n - (len(labels) - 1) / 2)  # so that no interval hides another
            whole = [(float(row.wanted or 0) + shift, *ends) for row in rows if (ends := _ends(row.weighted))]
            x, y, low, high = zip(*whole, strict=True) if whole else ((), (), (), ())
            tips = tuple(
                f"{name_text(label)} at {row.wanted:g} bits: {_interval(row.weighted).text} saved"
                for row in rows
                if _ends(row.weighted)
            )
            series.append(Series(name_text(label), x, y, tips, low, high, number=n))
        title = f"Saved against {name_text(baseline)} at equal squared error"
        plots.append(Plot(f"saved-{at}", title, "bits per weight", "bits per weight saved", tuple(series), zero=True))
    cells = tuple(
        (
            *(Cell(name_text(row.label)), Cell(name_text(row.baseline))),
            Cell("all") if row.wanted is None else number(row.wanted, "g"),
            *(_interval(row.weighted), _interval(row.plain)),
        )
        for row in found
    )
    columns = (
        *(Column("Codec", code=True), Column("Against", code=True)),
        *(Column(label, number=True) for label in ("Rate", "Saved, by size (95 %)", "Saved, plain mean (95 %)")),
    )
    table = Table("saved-table", "Bits per weight saved at equal squared error", columns, cells)
    note = "Means over tensors by their sizes; bars are 95 % confidence intervals."
    return Section("saved", "Compared at equal error", "", tuple(plots), (table,), note)


def _ends(found: Range) -> tuple[float, float, float] | None:
    """(mean, low, high) if all are known."""
    if found.mean is None or found.low is None or found.high is None:
        return None
    return found.mean, found.low, found.high


def _interval(found: Range) -> Cell:
    ends = _ends(found)
    return Cell("") if ends is None else Cell(f"{ends[0]:.4f} ({ends[1]:.4f} to {ends[2]:.4f})", ends[0])


def _xy(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = list(points)
    return tuple(x for x, _ in found), tuple(y for _, y in found)
