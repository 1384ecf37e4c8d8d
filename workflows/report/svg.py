"""matplotlib's SVG made fit for a page: its colours are the page's, its ids its own, and it says what it shows.

Colours stand for variables of the page's style sheet, so that a plot follows it into the dark: see `VARIABLES`. Styles become
classes of that sheet, since a page that forbids inline styles keeps out more than one that does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

SERIES = 8
INK, MUTED, GRID, ACCENT, PAPER = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES_COLOURS = tuple(f"#0101{16 + number:02x}" for number in range(SERIES))
VARIABLES = {
    **{INK: "--ink", MUTED: "--muted", GRID: "--grid", ACCENT: "--accent", PAPER: "--paper"},
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES_COLOURS)},
}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NUMBER = re.compile(r"-?\d+\.\d+")
_URL = re.compile(r"url\(#([^)]*)\)")
# What the sheet says for all text of plots.
_OF_TEXT = ("font", "font-size", "font-family", "font-weight", "fill")


class StyleSheet:
    """Classes for the styles of all plots of a page."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The class for a style."""
        return self._classes.setdefault(style, f"p{len(self._classes)}")

    @property
    def text(self) -> str:
        return "".join(f".{name}{{{style}}}\n" for style, name in self._classes.items())


def page_svg(
    data: bytes, name: str, title: str, sheet: StyleSheet, tips: Mapping[str, Sequence[str]] | None = None
) -> Markup:
    """A plot as part of a page.

    Args:
        data: what matplotlib wrote, with the colours of this module.
        name: unique on the page.
        title: what the plot shows, for those who do not see it.
        sheet: gets its styles.
        tips: by the gid of an artist, what to say of each of its markers, in order.

    Raises:
        ValueError: an artist has other markers than those that something is to be said of.
    """
    root = ET.fromstring(data)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    _add_tips(root, tips or {})
    used = {target for element in root.iter() for target in _targets(element)}
    for element in root.iter():
        _tidy(element, name, used, sheet)
    view = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {"class": "plot", "viewBox": view, "role": "img", "aria-label": title}
    first = ET.Element("title")
    first.text = title
    root.insert(0, first)
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))  # ElementTree escaped all text


def _targets(element: ET.Element) -> list[str]:
    """Ids that an element refers to."""
    found = _URL.findall(" ".join(element.attrib.values()))
    link = element.get(f"{_XLINK}href")
    return [*found, link.removeprefix("#")] if link else found


def _add_tips(root: ET.Element, tips: Mapping[str, Sequence[str]]) -> None:
    groups = {element.get("id"): element for element in root.iter(f"{_SVG}g")}
    for gid, texts in tips.items():
        markers = list(groups[gid].iter(f"{_SVG}use"))
        if len(markers) != len(texts):
            raise ValueError(f"{gid}: found {len(markers)} markers; wanted {len(texts)}")
        for marker, text in zip(markers, texts, strict=True):
            ET.SubElement(marker, "title").text = text


def _tidy(element: ET.Element, name: str, used: set[str], sheet: StyleSheet) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    element.text = element.text.strip() if element.text else None
    element.tail = element.tail.strip() if element.tail else None
    found = dict(element.attrib)
    element.attrib.clear()
    for key, value in found.items():
        if key == "id":
            if value in used:
                element.set("id", f"{name}-{value}")
        elif key == f"{_XLINK}href":
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        elif key == "style":
            style = _style(value, element.tag == "text")
            if style:
                element.set("class", sheet.name(style))
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        else:
            rounded = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
            element.set(key, _URL.sub(rf"url(#{name}-\1)", " ".join(rounded.split())))


def _style(text: str, of_text: bool) -> str:
    rules = [rule.partition(":")[::2] for rule in text.split(";")]
    kept = [(key.strip(), value.strip()) for key, value in rules if not (of_text and key.strip() in _OF_TEXT)]
    return ";".join(f"{key}:{_colour(value)}" for key, value in kept if key)


def _colour(value: str) -> str:
    return f"var({VARIABLES[value]})" if value in VARIABLES else value
