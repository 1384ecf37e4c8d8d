"""`nwc bench report`: what benchmarks stored, as tables, or as a page."""

from __future__ import annotations

import click

from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text


@click.command()
@click.argument("results", nargs=-1, required=True)
@click.option(
    "--out", default=None, metavar="FILE", help="Write an HTML page with tables and plots here, too; a path or URI."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@with_output
def report(output: Output, results: tuple[str, ...], out: str | None, force: bool) -> None:
    """Show what `nwc bench ... --out DIR` measured: RESULTS are its JSON files, or folders of them."""
    from nwc_core.errors import NotFoundError
    from nwc_workflows.bench.sheets import parts_data, parts_text
    from nwc_workflows.one_file import one_file
    from nwc_workflows.report.bench import bench_page, find_results
    from nwc_workflows.report.page import render

    file = None if out is None else one_file(out, force=force)
    found = []
    for place in results:
        of_place = find_results(place)
        if not of_place:
            raise NotFoundError(
                place, "no results of nwc bench are there; wanted a JSON file that it wrote, or a folder of them"
            )
        found += of_place
    if file is not None:
        nbytes = file.write([render(bench_page(found)).encode()])
        output.note(f"wrote {file.uri}, {bytes_text(nbytes)}")
    texts = []
    for result in found:
        environment = result.data.get("environment", {})
        where = ", ".join(f"{name} {environment[name]}" for name in ("cpu", "cores", "python") if name in environment)
        texts.append(f"== {result.benchmark} ({result.path.name}; {where})\n\n{parts_text(result.parts)}\n")
    data = [{"file": str(one.path), "benchmark": one.benchmark, "report": parts_data(one.parts)} for one in found]
    output.result({"results": data}, lambda: "\n".join(texts).rstrip())
