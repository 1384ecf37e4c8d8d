"""Draws the pictures of docs/how-it-works.md: `python -m docs.pictures.draw`.

Figures come from the tables of docs/benchmarks.md and from the shipped codec. The same input gives the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from docs.pictures.svg import arrow, box, curve, dot, line, picture, text
from docs.pictures.tables import table
from nwc_core.codec import Codec
from nwc_core.prior import LEVEL_ZERO, OCTAVE, TOTAL

FOLDER = Path(__file__).parent
_COLOURS = "bdca"


def shannon() -> str:
    """Bits above Shannon's bound by rate, one curve for each preset."""
    head, *rows = table("Distance to Shannon's bound")
    rates = [float(name.split()[0]) for name in head[2:]]
    left, right, top, bottom, most = 62, 500, 48, 268, 0.3

    def at(rate: float, gap: float) -> tuple[float, float]:
        return left + (rate - 1) / 7 * (right - left), bottom - gap / most * (bottom - top)

    parts = [text(20, 26, "Bits per weight above Shannon's bound, Gaussian weights, from bytes written", "title")]
    for tenths in range(4):
        y = at(1, tenths / 10)[1]
        parts += [
            line(left, y, right, y, "axis" if tenths == 0 else "grid"),
            text(left - 8, y + 4, f"0.{tenths}", "small", "end"),
        ]
    parts += [text(at(rate, 0)[0], bottom + 18, f"{rate:g}", "small", "middle") for rate in rates]
    parts += [
        text((left + right) / 2, bottom + 38, "rate, bits per weight; the line at 0 is the bound", "small", "middle")
    ]
    for (name, states, *gaps), colour in zip(rows, _COLOURS, strict=True):
        points = [at(rate, float(gap)) for rate, gap in zip(rates, gaps, strict=True)]
        parts += [curve(points, colour), *(dot(x, y, 3, colour) for x, y in points)]
        label = f"{name.strip('`')}: {states} state" + ("s" if states != "1" else "")
        shift = {"fast": -5.0, "default": 9.0}.get(name.strip("`"), 4.0)
        parts.append(text(right + 12, points[-1][1] + shift, label))
    words = "; ".join(f"{row[0].strip('`')} {min(row[2:])} to {max(row[2:])}" for row in rows)
    return picture(660, 320, "Bits above Shannon's bound", f"From {rates[0]:g} to {rates[-1]:g} bits: {words}.", parts)


def parts_of_the_codec() -> str:
    """Bits lost without each part, at the middle rate of the table."""
    head, *rows = table("What each part is worth")
    at = head.index("4 bits")
    bars = [(row[0], float(row[at])) for row in rows]
    left, right, top, step = 330, 620, 52, 23
    most = max(value for _, value in bars)
    parts = [text(20, 26, "Bits per weight lost without each part, equal error, 4 bits, all-MiniLM-L6-v2", "title")]
    for index, (name, value) in enumerate(bars):
        y, width = top + index * step, max(1.0, value / most * (right - left))
        parts += [text(left - 10, y + 12, name, anchor="end"), box(left, y, width, 16, "a", 2)]
        parts.append(text(left + width + 7, y + 12.5, f"{value:.3f}", "small"))
    words = "; ".join(f"{name} {value:.3f}" for name, value in bars)
    return picture(690, top + len(bars) * step + 14, "What each part is worth", words + ".", parts)


def contexts() -> str:
    """Three entropy tables of the shipped codec: how likely each point is, by what its scale promises."""
    shape = Codec.load("default").prior.tables[0]
    left, right, top, bottom, widest = 62, 500, 48, 268, 20
    chosen = [(0, "one step", "c"), (1, "two steps", "a"), (3, "eight steps", "b")]

    def at(point: float, share: float) -> tuple[float, float]:
        return left + (point + widest) / (2 * widest) * (right - left), bottom - share * (bottom - top)

    parts = [text(20, 26, "What the entropy coder expects by the scale of a weight: one step, three tables", "title")]
    for tenths in range(0, 11, 2):
        y = at(0, tenths / 10)[1]
        parts += [
            line(left, y, right, y, "axis" if tenths == 0 else "grid"),
            text(left - 8, y + 4, f"{10 * tenths} %", "small", "end"),
        ]
    parts += [text(at(n, 0)[0], bottom + 18, f"{n}", "small", "middle") for n in range(-widest, widest + 1, 5)]
    parts += [
        text(
            (left + right) / 2,
            bottom + 38,
            "point, in steps; in each state the trellis has every other one",
            "small",
            "middle",
        )
    ]
    words = []
    for index, (octaves, name, colour) in enumerate(chosen):
        entry = 2 * (LEVEL_ZERO + OCTAVE * octaves)  # the table of even points, which holds every other one
        zero = int(shape.zero[entry])
        frequencies = {k: int(shape.freq[entry, k + zero]) / TOTAL for k in range(-zero, zero + 1)}
        entropy = -sum(share * np.log2(share) for share in frequencies.values())
        points = [at(2 * k, frequencies.get(k, 0.0)) for k in range(-widest // 2, widest // 2 + 1)]
        parts += [curve(points, colour), *(dot(x, y, 2.6, colour) for x, y in points)]
        y = top + 26 + 46 * index
        parts += [line(right + 14, y - 4, right + 34, y - 4, f"{colour} line"), text(right + 42, y, f"scale: {name}")]
        parts.append(text(right + 42, y + 17, f"{entropy:.2f} bits on average", "small"))
        words.append(f"scale {name}: {entropy:.2f} bits on average, {100 * frequencies[0]:.0f} % on zero")
    return picture(690, 320, "Scales as contexts", "; ".join(words) + ".", parts)


def block() -> str:
    """The way of a block: coded from left to right, read from right to left."""
    coded = [
        ("checkpoint", "one byte range", "box"),
        ("matrix", "[out, in]", "box"),
        ("decorrelated", "transform, basis", "box"),
        ("points", "trellis search", "key"),
        ("coded block", "interleaved rANS", "key"),
        ("payload", "named by content", "box"),
    ]
    width, gap, top = 112, 22, 78
    parts = [
        text(20, 28, "A worker codes a block", "title"),
        text(20, 46, "it gets a name and a byte range, and reads the bytes itself", "small"),
    ]
    middles = []
    for index, (name, how, kind) in enumerate(coded):
        x = 20 + index * (width + gap)
        middles.append(x + width / 2)
        parts += [box(x, top, width, 50, kind), text(x + width / 2, top + 22, name, "", "middle")]
        parts.append(text(x + width / 2, top + 39, how, "small", "middle"))
        if index:
            parts.append(arrow(x - gap + 2, top + 25, x - 2, top + 25))
    low = top + 92
    right = 20 + 6 * width + 5 * gap
    aside = [
        (middles[1] - 78, middles[2] + 20, "row and column scales", "choose a table for each weight"),
        (middles[3] - 56, middles[4] + 56, "learned prior", "code lengths, frequencies"),
        (middles[5] - 56, middles[5] + 56, "row of the index", "digests, error"),
    ]
    for start, stop, name, how in aside:
        middle = (start + stop) / 2
        parts += [box(start, low, stop - start, 46, "box"), text(middle, low + 20, name, "", "middle")]
        parts.append(text(middle, low + 37, how, "small", "middle"))
    parts += [arrow(middles[at], low, middles[at], top + 50) for at in (3, 4)]
    parts += [arrow(middles[at], top + 50, middles[at], low) for at in (2, 5)]
    parts.append(arrow(middles[2] + 20, low + 23, middles[3] - 56, low + 23))
    back = low + 92
    parts += [line(20, back - 22, right, back - 22, "grid"), text(20, back + 2, "A reader decodes it", "title")]
    parts.append(
        text(
            20,
            back + 20,
            "manifest, index, then these bytes alone; the digest is checked before anything is decoded",
            "small",
        )
    )
    read = ["index", "byte range", "digest", "rANS", "exact integers", "tensor or rows"]
    for index, name in enumerate(read):
        x = 20 + index * (width + gap)
        parts += [box(x, back + 36, width, 34, "key" if name in ("rANS", "exact integers") else "box")]
        parts.append(text(x + width / 2, back + 58, name, "", "middle"))
        if index:
            parts.append(arrow(x - gap + 2, back + 53, x - 2, back + 53))
    words = " to ".join(name for name, _, _ in coded)
    described = f"Coding: {words}; scales choose the table, the prior gives code lengths. Reading: {' to '.join(read)}."
    return picture(int(right) + 20, back + 92, "The path of a block", described, parts)


PICTURES: dict[str, Callable[[], str]] = {
    "block.svg": block,
    "contexts.svg": contexts,
    "parts.svg": parts_of_the_codec,
    "shannon.svg": shannon,
}


def main() -> None:
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
