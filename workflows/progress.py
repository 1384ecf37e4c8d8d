"""How far long work is, how fast it goes, when it will end: a bar on a terminal, plain lines anywhere else; on stderr.

A log gets about ten lines a job at most, and always a last one, whether the work ended or was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from nwc_workflows.log import say
from nwc_workflows.wording import amount_text, duration_text, rate_text

# A log gets a line when both have passed: few lines from a long job, and no burst from a short one.
_LINE_SECONDS = 5.0
_LINE_FRACTION = 0.1


class Progress(Protocol):
    """Long work under way."""

    def advance(self, amount: float) -> None:
        """So much more is done, in the unit of the total."""
        ...


@contextmanager
def show_progress(total: float, description: str, unit: str, *, bar: bool) -> Iterator[Progress]:
    """Reports on the work of the `with` block.

    Args:
        total: how much there is to do.
        description: what is being done, e.g. "compress".
        unit: "B" for bytes, else the plural of what is counted, e.g. "tensors".
        bar: draw on the terminal instead of writing lines.
    """
    show = _bar if bar else _lines
    with show(_Meter(total, unit), description) as progress:
        yield progress


class _Meter:
    """How much is done, since when, and what that says about the rest."""

    def __init__(self, total: float, unit: str) -> None:
        self.total, self.unit = total, unit
        self.done = 0.0
        self.start = time.monotonic()

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 1.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def under_way(self) -> str:
        amounts = f"{amount_text(self.done, self.unit)} of {amount_text(self.total, self.unit)}"
        if self.done <= 0:
            return amounts
        left = duration_text(self.elapsed * (self.total - self.done) / self.done) if self.done < self.total else "0 s"
        return f"{amounts}, {rate_text(self.done, self.elapsed, self.unit)}, {left} left"

    def ended(self) -> str:
        amounts = amount_text(self.done, self.unit)
        return f"{amounts} in {duration_text(self.elapsed)}, {rate_text(self.done, self.elapsed, self.unit)}"


class _Lines:
    def __init__(self, meter: _Meter, description: str) -> None:
        self.meter, self.description = meter, description
        self.said_at, self.said_done = meter.start, 0.0

    def advance(self, amount: float) -> None:
        meter = self.meter
        meter.done += amount
        now = time.monotonic()
        if now - self.said_at < _LINE_SECONDS or meter.done - self.said_done < _LINE_FRACTION * meter.total:
            return
        self.said_at, self.said_done = now, meter.done
        self.say(f"{meter.fraction:.0%}, {meter.under_way()}")

    def say(self, line: str, state: str = "running") -> None:
        meter = self.meter
        fields = {
            **{"work": self.description, "state": state},
            **{"done": meter.done, "total": meter.total, "unit": meter.unit, "seconds": round(meter.elapsed, 3)},
        }
        say(f"{self.description}: {line}", "progress", fields=fields)


@contextmanager
def _lines(meter: _Meter, description: str) -> Iterator[Progress]:
    lines = _Lines(meter, description)
    try:
        yield lines
    except BaseException:
        lines.say(f"stopped at {meter.fraction:.0%}, {meter.ended()}", "stopped")
        raise
    lines.say(f"done, {meter.ended()}", "done")


@contextmanager
def _bar(meter: _Meter, description: str) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.percentage:>3.0f} %, {task.fields[status]}", markup=False),
    )
    # Only a stdout that is the same terminal may be drawn around; a redirected one must not land on the screen.
    bar = rich_progress.Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty())
    with bar:
        task = bar.add_task(description, total=max(meter.total, 1), status=meter.under_way())

        class Advance:
            def advance(self, amount: float) -> None:
                meter.done += amount
                bar.update(task, completed=meter.done, status=meter.under_way())

        yield Advance()
        bar.update(task, status=meter.ended())
