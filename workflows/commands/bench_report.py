"""`nwc bench report`: what benchmarks stored, as tables, or as a page."""

from __future__ import annotations

from pathlib import Path

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
    from nwc_workflows.bench.plot_style import check_matplotlib
    from nwc_workflows.bench.sheets import parts_data, parts_text
    from nwc_workflows.report.bench import gather_bench
    from nwc_workflows.report.bench_files import read_bench
    from nwc_workflows.report.page import render
    from nwc_workflows.single_file import single_file

    file = None if out is None else single_file(out, force=force)
    found = [result for place in results for result in read_bench(Path(place))]
    if file is not None:
        check_matplotlib()
        nbytes = file.write([render("bench", gather_bench(Path(results[0]).resolve().as_uri(), found))])
        output.note(f"wrote {file.where}, {bytes_text(nbytes)}")
    texts = []
    for result in found:
        on = result.content.environment
        where = ", ".join(filter(None, (on.cpu, f"{on.cores} cores" if on.cores else "", f"Python {on.python}")))
        texts.append(f"== {result.benchmark} ({result.name}; {where})\n\n{parts_text(result.parts)}\n")
    data = [{"file": one.name, "benchmark": one.benchmark, "report": parts_data(one.parts)} for one in found]
    output.result({"results": data}, lambda: "\n".join(texts).rstrip())
