"""`nwc report`: one HTML file about an artifact, a catalog, or benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nwc_workflows.commands.base_option import base_option
from nwc_workflows.commands.catalog_options import open_catalog
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text

if TYPE_CHECKING:
    from nwc_workflows.report.page import Page

_PRICE = 0.023  # US dollars for a GB and month, what large object stores ask for their standard class


@click.command()
@click.argument("what")
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="A path or URI.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--price", type=click.FloatRange(0), default=None, help=f"Of a GB and month. [{_PRICE}, or the catalog's]"
)
@click.option(
    "--index-only",
    is_flag=True,
    help="Read no weights of an artifact: errors of its tensors are then not relative to these.",
)
@base_option
@with_output
def report(
    output: Output, what: str, base: str | None, out: str, force: bool, price: float | None, index_only: bool
) -> None:
    """One HTML file about WHAT, which needs no network: an artifact, a catalog (its file, or where its results are), or what
    `nwc bench` measured (a JSON file, or a folder of these)."""
    from nwc_workflows.one_file import one_file
    from nwc_workflows.report.page import render

    file = one_file(out, force=force)
    page = _page(output, what, base, price, index_only)
    nbytes = file.write([render(page).encode()])
    data = {
        "file": file.uri,
        "bytes": nbytes,
        "title": page.title,
        "sections": [section.title for section in page.sections],
    }
    output.result(data, f"{file.uri}: {page.subtitle}; {bytes_text(nbytes)}")


def _page(output: Output, what: str, base: str | None, price: float | None, index_only: bool) -> Page:
    import nwc_core as nwc
    from nwc_core.errors import NotFoundError
    from nwc_workflows.catalog.file import is_catalog
    from nwc_workflows.catalog.records import Records
    from nwc_workflows.report.artifact import artifact_page
    from nwc_workflows.report.bench import bench_page, find_results
    from nwc_workflows.report.catalog import catalog_page

    if results := find_results(what):
        return bench_page(results)
    if is_catalog(what):
        root, members, of_file = open_catalog(what, with_members=True)
        return catalog_page(root, members, price if price is not None else of_file if of_file is not None else _PRICE)
    price = _PRICE if price is None else price
    try:
        with nwc.open(what, base=base) as artifact:
            if index_only:
                return artifact_page(artifact, price, read_weights=False)
            lossy = sum(row.length for row in artifact.index if row.mse > 0)
            with output.progress(lossy, "decode") as progress:
                return artifact_page(artifact, price, on_progress=progress.advance)
    except NotFoundError as error:
        root, _, _ = open_catalog(what, with_members=False)
        if not Records(root).names():
            raise NotFoundError(
                error.key, "no such object: neither an artifact nor the results of a catalog nor of nwc bench are there"
            ) from None
        return catalog_page(root, None, price)
