"""A report's page as tests look at it: what a browser would make of it, without a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

_VOID = {"meta", "input", "wbr", "br", "link", "img"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        text: of the file.
        tags: (name, attributes) of all elements, in order.
        tables: by id, rows of the texts of their cells, headings first.
        titles: of elements with a title, attribute or child.
        policy: directives of the content security policy.
        style, script: contents of these elements.
        said: all text but those.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.text = data.decode()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.titles: list[str] = []
        self.said, self.style, self.script = "", "", ""
        self._open: list[str] = []
        self._table: list[list[str]] | None = None
        self.feed(self.text)
        self.close()
        assert self._open == [], "elements that are not closed"
        (policy,) = [a["content"] for name, a in self.tags if a.get("http-equiv") == "Content-Security-Policy"]
        self.policy = {part.split()[0]: part.split()[1:] for part in (policy or "").split(";")}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, found))
        if found.get("title"):
            self.titles.append(str(found["title"]))
        if tag == "title":
            self.titles.append("")
        if tag == "table":
            self._table = self.tables[str(found["id"])] = []
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in ("style", "script"):
            setattr(self, inside, getattr(self, inside) + data)
            return
        self.said += data
        if inside == "title":
            self.titles[-1] += data
        if self._table and self._table[-1] and {"td", "th"} & set(self._open):
            self._table[-1][-1] += data

    def column(self, table: str, heading: str) -> list[str]:
        """Texts of a column."""
        head, *rows = self.tables[table]
        return [row[head.index(heading)] for row in rows]


def check_sound(page: Page) -> None:
    """What holds for every report: nothing is loaded, no style or script but ours counts, ids are unique and lead somewhere."""
    digest = {
        kind: f"'sha256-{base64.b64encode(hashlib.sha256(getattr(page, kind).encode()).digest()).decode()}'"
        for kind in ("style", "script")
    }
    assert page.policy == {
        "default-src": ["'none'"],
        "style-src": [digest["style"]],
        "script-src": [digest["script"]],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert [name for name, _ in page.tags].count("script") == 1
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for name, attributes in page.tags:
        assert name not in ("link", "iframe", "object", "embed", "base", "img", "image", "form"), name
        assert "src" not in attributes
        assert not any(key.startswith("on") or key == "style" for key in attributes), (name, attributes)
        for key in ("href", "for", "aria-controls", "aria-labelledby"):
            if attributes.get(key):
                assert str(attributes[key]).removeprefix("#") in ids, (name, attributes)
        for target in re.findall(r"url\((.*?)\)", " ".join(filter(None, attributes.values()))):
            assert target.removeprefix("#") in ids
    assert not re.search(r"url\(|@import", page.style)
