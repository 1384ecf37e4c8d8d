"""A little SVG: shapes and words whose colours follow the reader's light or dark mode, the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Colours of the categories are those of Okabe and Ito, apart for the colour-blind, darker or lighter to stand out.
_STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 14px; }
  .small { font-size: 11.5px; fill: #59636e; }
  .grid { stroke: #d8dee4; stroke-width: 1; }
  .axis { stroke: #59636e; stroke-width: 1; }
  .box { fill: #f6f8fa; stroke: #8c959f; }
  .key { fill: #ddf4ff; stroke: #0969da; }
  .flow { stroke: #59636e; stroke-width: 1.5; fill: none; }
  .head { fill: #59636e; }
  .a { fill: #0969da; stroke: #0969da; } .b { fill: #b35900; stroke: #b35900; }
  .c { fill: #1a7f4b; stroke: #1a7f4b; } .d { fill: #a0307a; stroke: #a0307a; }
  .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d; }
    text { fill: #f0f6fc; }
    .small { fill: #9ea7b3; }
    .grid { stroke: #2a313c; }
    .axis, .flow { stroke: #9ea7b3; } .head { fill: #9ea7b3; }
    .box { fill: #161b22; stroke: #656c76; }
    .key { fill: #10243e; stroke: #4493f8; }
    .a { fill: #58a6ff; stroke: #58a6ff; } .b { fill: #f0a04b; stroke: #f0a04b; }
    .c { fill: #4ac287; stroke: #4ac287; } .d { fill: #f08bcb; stroke: #f08bcb; }
    .line { fill: none; }
  }
  .line { fill: none; }
"""


def number(value: float) -> str:
    """Two digits are finer than any screen, and the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{number(x)}" y="{number(y)}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, radius: float = 4) -> str:
    sizes = f'width="{number(width)}" height="{number(height)}" rx="{number(radius)}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {sizes} class="{kind}"/>'


def dot(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" class="{kind}"/>'


def curve(points: Sequence[tuple[float, float]], kind: str) -> str:
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polyline points="{joined}" class="{kind} line"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight one, along an axis."""
    dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    ends = [(x2, y2), (x2 - 8 * dx - 4 * dy, y2 - 8 * dy - 4 * dx), (x2 - 8 * dx + 4 * dy, y2 - 8 * dy + 4 * dx)]
    head = " ".join(f"{number(x)},{number(y)}" for x, y in ends)
    return line(x1, y1, x2 - 7 * dx, y2 - 7 * dy, "flow") + f'<polygon points="{head}" class="head"/>'


def picture(width: int, height: int, title: str, described: str, parts: Sequence[str]) -> str:
    """The file. `described` says in words what there is to see, for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="title described">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="described">{escape(described)}</desc>\n<style>{_STYLE}</style>\n'
        + "\n".join([box(0.5, 0.5, width - 1, height - 1, "page", 6), *parts])
        + "\n</svg>\n"
    )
