"""The documentation as tests see it: the front page and the pages below docs/, their code, links and titles."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from nwc_workflows.cli import nwc

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = ROOT / "docs" / "README.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """As links from the root have it."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Without the fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Code inside of prose; a line break in it is a space."""
        return [" ".join(span.split()) for part in self.prose.split("\n\n") for span in re.findall(r"`([^`]+)`", part)]

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)]+)\)", self.prose)

    @cached_property
    def anchors(self) -> list[str]:
        """Of the titles, as GitHub makes them."""
        titles = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]

    def blocks(self, language: str) -> list[str]:
        """Fenced code of a language; "" for those that name none."""
        return [text for name, text in _FENCE.findall(self.text) if name == language]

    def commands(self, *languages: str) -> Iterator[list[str]]:
        """Arguments of each line that calls nwc, comments left out."""
        for language in languages:
            for block in self.blocks(language):
                for line in block.replace("\\\n", " ").splitlines():
                    if line.startswith("nwc "):
                        yield shlex.split(line, comments=True)[1:]

    @property
    def files(self) -> dict[str, str]:
        """Files that a reader is told to write: blocks of YAML behind which it says "saved as `name`"."""
        found = {}
        for block in _FENCE.finditer(self.text):
            name = re.match(r"\nsaved as `([^`]+)`", self.text[block.end() + 1 :])
            if name:
                found[name[1]] = block[2]
        return found


FRONT = Page(ROOT / "README.md")
# In the order of the table of contents.
ORDER = re.findall(r"^\d+\. \[([^\]]+)\]\(([a-z0-9-]+\.md)\)", CONTENTS.read_text(encoding="utf-8"), re.MULTILINE)
DOCS = [Page(CONTENTS.parent / file) for _, file in ORDER]
PAGES = [FRONT, Page(CONTENTS), *DOCS]


def all_commands() -> dict[tuple[str, ...], click.Command]:
    """What `nwc` can be asked for: groups and commands, by the words that call them."""
    found: dict[tuple[str, ...], click.Command] = {(): nwc}
    waiting: list[tuple[str, ...]] = [()]
    with click.Context(nwc) as context:
        while waiting:
            words = waiting.pop()
            group = found[words]
            if isinstance(group, click.Group):
                for name in group.list_commands(context):
                    command = group.get_command(context, name)
                    assert command is not None
                    found[*words, name] = command
                    waiting.append((*words, name))
    return found


def options_of(command: click.Command) -> set[str]:
    """Long options, with the help that all have."""
    return {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {"--help"}
