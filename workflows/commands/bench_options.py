"""What the commands below `nwc bench` share: options, and the folders that they write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PRESETS = ("scalar", "fast", "default", "max")
_RATES = (3.0, 4.0, 5.0)
_F = Callable[..., Any]


def _rates(ctx: click.Context, param: click.Parameter, value: tuple[float, ...]) -> list[float]:
    return sorted(set(value or _RATES))


def comparing_options(command: _F) -> _F:
    """--bits, --max-weights, --work and --out; `rates` come sorted, each once."""
    for option in (
        click.option("--out", default=None, metavar="DIR", help="Write plots (PNG) and all figures (JSON) here."),
        click.option("--work", default=None, metavar="DIR", help="Keep trained codecs here, and resume from them."),
        click.option(
            "--max-weights", type=click.IntRange(1024), default=None, help="Code only so many of each tensor's rows."
        ),
        click.option(
            "--bits",
            "rates",
            multiple=True,
            type=click.FloatRange(0.25, 16),
            callback=_rates,
            help="Repeatable. [3, 4, 5]",
        ),
    ):
        command = option(command)
    return command


def new_folder(option: str, given: str | None) -> Path | None:
    """The folder that an option names, made if it is not there: known now rather than after hours of work.

    Raises:
        UsageError: there can be none.
    """
    from nwc_core.errors import UsageError

    if given is None:
        return None
    try:
        Path(given).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option}: {given}: {error.strerror}; wanted a folder, new or old") from None
    return Path(given)
