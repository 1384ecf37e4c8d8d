"""`nwc report`: an HTML file that shows what an artifact, a catalog or a benchmark holds."""

from __future__ import annotations

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text


@click.command()
@click.argument("what")
@click.option(
    "--out", "place", default="report.html", show_default=True, metavar="FILE", help="Where it goes; a URI will do."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--original",
    default=None,
    metavar="PATH|URI",
    help="Of an artifact: the checkpoint that it was made from, which is read, so that errors can be relative to it.",
)
@click.option(
    "--relative", is_flag=True, help="Of an artifact: decode it, so that errors can be relative to its own weights."
)
@click.option(
    "--price",
    type=click.FloatRange(0),
    default=None,
    metavar="DOLLARS_PER_GB_MONTH",
    help="Of a GB stored for a month. [0.023, or the catalog file's]",
)
@with_output
def report(
    output: Output, what: str, place: str, force: bool, original: str | None, relative: bool, price: float | None
) -> None:
    """Write one HTML file about WHAT: summary, plots, a map of the layers, tables to sort and search.

    WHAT is an artifact, of which manifest and index are read and no weights; a catalog, by its file or the place of its
    results; or what nwc bench wrote with --out. The file holds all that it shows and loads nothing.
    """
    from nwc_workflows.report.make import make_report
    from nwc_workflows.single_file import single_file

    file = single_file(place, force=force)
    made = make_report(what, original=original, relative=relative, price=price, show=output.progress)
    size = file.write([made.data])
    output.result(
        {"what": what, "kind": made.kind, "file": file.where, "bytes": size},
        f"{file.where}: a report of the {made.kind} {what}, {bytes_text(size)}",
    )
