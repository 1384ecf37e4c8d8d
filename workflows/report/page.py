"""The page: one HTML file with its style and its script inside, which may load nothing and says so to the browser.

Promises: all text that comes out of files is escaped, and shown as what it is where it holds control codes; the same content
gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from importlib.metadata import version
from typing import Protocol

import jinja2
from markupsafe import Markup

from nwc_workflows.report.content import Heading
from nwc_workflows.report.heat_map import LEVELS
from nwc_workflows.report.plots import Plot, Series
from nwc_workflows.report.svg import SERIES, StyleSheet
from nwc_workflows.wording import name_text, places_text

_PACKAGE = "nwc_workflows.report"
_SHORT = 12  # characters of a digest
_TITLE = re.compile(r'<h2 id="([a-z0-9-]+)">([^<]*)</h2>')
# Of a legend, in a box of 28 x 12, around its middle.
_MARKERS = {
    "o": "M10 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "s": "M10.5 2.5h7v7h-7z",
    "^": "M14 1.5l4.5 8.5h-9z",
    "v": "M14 10.5l4.5-8.5h-9z",
    "D": "M14 1l5 5-5 5-5-5z",
    "P": "M12.5 1.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "X": "M11 1l3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3-3-3z",
    "*": "M14 .5l1.5 3.8 4 .2-3.1 2.6 1 4-3.4-2.3-3.4 2.3 1-4-3.1-2.6 4-.2z",
}


class Content(Protocol):
    """What a page can be made of."""

    @property
    def heading(self) -> Heading: ...


def render(template: str, content: Content) -> bytes:
    """The page.

    Args:
        template: of its body, such as "artifact".
        content: what it is about, called `report` in the template.

    Raises:
        UsageError: there are plots, and no matplotlib to draw them.
    """
    sheet = StyleSheet()
    environment = _environment(sheet)
    body = Markup(environment.get_template(f"{template}.html.j2").render(report=content))
    style = Markup(f"{_text('style.css')}{_numbered()}{sheet.text}")
    script = Markup(_text("page.js"))
    page = environment.get_template("page.html.j2").render(
        heading=content.heading,
        sections=[(found[1], Markup(found[2])) for found in _TITLE.finditer(body)],
        body=body,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'; "
        "form-action 'none'",
        version=version("nwc"),
    )
    return page.encode()


def _environment(sheet: StyleSheet) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader(_PACKAGE, "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def svg(plot: Plot) -> Markup:
        return plot.svg(sheet)

    environment.filters |= {
        "svg": svg,
        "swatch": _swatch,
        "short": _short,
        "key": _key,
        "sentence": _sentence,
        "breakable": _breakable,
    }
    environment.globals["levels"] = LEVELS
    return environment


def _readable(value: object) -> object:
    """Text with control codes, or with letters that turn what follows around, as Python would write it; places as paths."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return places_text(value if value.isprintable() else name_text(value))
    return value


def _swatch(series: Series) -> Markup:
    """A series in a legend."""
    number = "a" if series.number is None else str(series.number % SERIES)
    line = f'<path class="line {series.line}" d="M0 6h28"/>' if series.line else ""
    marker = f'<path d="{_MARKERS[series.marker]}"/>' if series.marked else ""
    return Markup(f'<g class="c{number}">{line}{marker}</g>')


def _short(digest: str) -> str:
    return f"{digest[:_SHORT]}…" if len(digest) > _SHORT else digest


def _breakable(name: str) -> Markup:
    """A name that may be broken behind its dots and slashes."""
    parts = re.split(r"(?<=[./])(?=.)", str(_readable(name)))
    return Markup("<wbr>").join(parts)


def _key(value: float) -> str:
    """A number for sorting; exact, and short where it is whole."""
    return repr(int(value)) if float(value).is_integer() else repr(float(value))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbered() -> str:
    """Rules for what is counted: colours of series and levels, lengths of bars."""
    series = [f".c{n}{{color:var(--series-{n})}}" for n in range(SERIES)]
    middle = LEVELS // 2
    on = ["low" if n < middle else "mid" if n == middle else "high" for n in range(LEVELS)]
    levels = [f".q{n}{{background:var(--q{n});color:var(--on-{text})}}" for n, text in enumerate(on)]
    lengths = [f".data .w{n}{{background-size:calc({n / 100:g} * (100% - 1.5rem)) 3px}}" for n in range(101)]
    return "\n".join([*series, *levels, *lengths]) + "\n"


def _text(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
