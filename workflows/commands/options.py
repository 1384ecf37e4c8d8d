"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_F = Callable[..., Any]


def compress_options(command: _F) -> _F:
    """--bits, --preset and --codec."""
    for option in (
        click.option("--codec", default="default", show_default=True, help="A shipped codec, or a codec file."),
        click.option(
            "--preset",
            type=click.Choice(["scalar", "fast", "default", "max"]),
            default="default",
            show_default=True,
            help="How hard to search; decoding costs the same.",
        ),
        click.option(
            "--bits",
            type=float,
            default=4.5,
            show_default=True,
            help="Bits per weight, over all bytes that hold weights.",
        ),
    ):
        command = option(command)
    return command


def ray_options(command: _F) -> _F:
    """--address and --workers."""
    for option in (
        click.option("--workers", type=int, default=None, help="Tasks at once; one per CPU if left out."),
        click.option(
            "--address",
            default=None,
            metavar="ADDRESS",
            help="A running Ray cluster (auto, HOST:PORT, ray://HOST:PORT). Without it a local Ray starts and stops.",
        ),
    ):
        command = option(command)
    return command
