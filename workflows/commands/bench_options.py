"""What the commands below `nwc bench` share: options, and the folders that they write to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nwc_workflows.console import Output, json_text

if TYPE_CHECKING:
    from nwc_workflows.bench.sheets import Part

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


def out_option(command: _F) -> _F:
    """--out for benchmarks without plots."""
    return click.option("--out", default=None, metavar="DIR", help="Write all figures (JSON) here.")(command)


def finish(
    output: Output,
    benchmark: str,
    data: Mapping[str, Any],
    parts: Sequence[Part],
    folder: Path | None,
    plots: Callable[[Path], Iterable[Path]] = lambda folder: (),
) -> None:
    """Give the result of a benchmark, and store it if a folder is given.

    Args:
        output: of the command.
        benchmark: its name.
        data: all figures.
        parts: the same for people.
        folder: for BENCHMARK.json and plots.
        plots: draws them into it, and gives their files.
    """
    from nwc_workflows.bench.sheets import parts_data, parts_text

    described = {"benchmark": benchmark, "arguments": _arguments(), **data, "report": parts_data(parts)}
    if folder is not None:
        path = folder / f"{benchmark}.json"
        path.write_text(json_text(described) + "\n")
        for written in [path, *plots(folder)]:
            output.note(f"wrote {written}")
    output.result(described, lambda: parts_text(parts))


def _arguments() -> dict[str, Any]:
    """What the command was given, defaults too: what else is needed to do it again."""
    given = click.get_current_context().params
    return {name: value for name, value in given.items() if name not in ("output", "out", "work")}


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
