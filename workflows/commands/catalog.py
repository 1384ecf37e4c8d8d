"""`nwc catalog`: many models by one file."""

from __future__ import annotations

import click

from nwc_workflows.commands.catalog_gc import gc
from nwc_workflows.commands.catalog_run import run
from nwc_workflows.commands.catalog_status import status


@click.group()
def catalog() -> None:
    """Compress many models by one file, see how far that is, clear up."""


catalog.add_command(run)
catalog.add_command(status)
catalog.add_command(gc)
