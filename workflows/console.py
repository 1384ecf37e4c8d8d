"""What a command says, and where: results on stdout, everything else on stderr.

With ``--output json`` stdout carries exactly one JSON value, so that it can be piped into another program.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import PurePath
from typing import Any

import click

from nwc_workflows.log import say, structured
from nwc_workflows.progress import Progress, show_progress
from nwc_workflows.wording import places_text, table_text


class ExitCode(IntEnum):
    """What a command's return value means; None is DONE."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3  # finished, but some tensors or models failed


class Output:
    """Where a command's words go, in the form that the user asked for.

    Attributes:
        json: whether stdout carries JSON.
    """

    def __init__(self, form: str = "text") -> None:
        self.json = form == "json"

    def result(self, data: Mapping[str, Any], text: str | Callable[[], str]) -> None:
        """What the command found, once per command: `data` as JSON, or `text` for people."""
        if self.json:
            print(json_text(data))
        else:
            print(places_text(text if isinstance(text, str) else text()))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table for people, before the result. Nothing in JSON: put the same figures into the result's data."""
        if not self.json:
            print(places_text(table_text(headers, rows)))

    def note(self, line: str, event: str = "note", fields: Mapping[str, Any] | None = None) -> None:
        """Something worth knowing that isn't the result; on stderr. Structured logs get the fields too."""
        say(line, event, fields=fields)

    def progress(self, total: float, description: str, unit: str = "B") -> AbstractContextManager[Progress]:
        """Shows how far long work is, how fast, and when it will end; on stderr, as a bar if that is a terminal.

        Args:
            total: how much there is to do.
            description: what is being done, e.g. "compress".
            unit: "B" for bytes, else the plural of what is counted, e.g. "tensors".
        """
        return show_progress(total, description, unit, bar=sys.stderr.isatty() and not self.json and not structured())


def with_output(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Gives a command ``--output text|json``; the function receives an Output as its first argument."""

    @click.option(
        "--output",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Form of stdout.",
    )
    @functools.wraps(function)
    def command(*args: Any, form: str, **options: Any) -> int | None:
        return function(Output(form), *args, **options)

    return command


def json_text(data: Mapping[str, Any]) -> str:
    """JSON as strict parsers want it, which know neither NaN nor infinity: those become null."""
    return json.dumps(_plain(data), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a numpy or torch scalar, which json doesn't know
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value
