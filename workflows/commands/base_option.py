"""`--base`, of the commands that decode an artifact."""

from __future__ import annotations

import click

base_option = click.option(
    "--base",
    default=None,
    metavar="URI",
    help="Where the artifact is that ARTIFACT was coded against, if it has moved.",
)
