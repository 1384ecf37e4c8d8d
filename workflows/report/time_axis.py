"""A line of time from which idle hours are cut out: a catalog that runs every night still has room for its minutes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nwc_workflows.wording import duration_text

_IDLE = 0.1  # a pause that is longer than this share of all busy time is cut out
_CUT = 0.015  # of the axis, for each cut
_MOST_PARTS = 12
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800)
_ROOM = 0.13  # of the axis, for a label


@dataclass(frozen=True)
class Tick:
    """A mark with its label; `at` from 0 to 1."""

    at: float
    label: str


@dataclass(frozen=True)
class TimeAxis:
    """Busy parts of a time, one behind the other.

    Attributes:
        parts: (start, stop) in seconds since 1970, apart from each other.
    """

    parts: tuple[tuple[float, float], ...]

    @property
    def _seconds(self) -> float:
        return sum(stop - start for start, stop in self.parts) or 1.0

    @property
    def _scale(self) -> float:
        return (1 - _CUT * (len(self.parts) - 1)) / self._seconds

    def at(self, time: float) -> float:
        """Where a time is, from 0 to 1."""
        before = 0.0
        for number, (start, stop) in enumerate(self.parts):
            if time <= stop:
                return min(1.0, number * _CUT + (before + max(0.0, time - start)) * self._scale)
            before += stop - start
        return 1.0

    @property
    def cuts(self) -> list[tuple[float, float]]:
        """(from, to) of what was cut out."""
        return [
            (self.at(stop), self.at(start)) for (_, stop), (start, _) in zip(self.parts, self.parts[1:], strict=False)
        ]

    @property
    def ticks(self) -> list[Tick]:
        """Seconds since the start where nothing was cut out; else when each part started, as far as there is room."""
        if not self.parts:
            return []
        if len(self.parts) == 1:
            start, stop = self.parts[0]
            step = next((step for step in _TICKS if (stop - start) / step <= 6), (stop - start) / 6)
            count = int((stop - start) / step)
            return [Tick(self.at(start + n * step), duration_text(n * step) if n else "0") for n in range(count + 1)]
        ticks: list[Tick] = []
        for start, _ in self.parts:
            if not ticks or self.at(start) - ticks[-1].at >= _ROOM:
                ticks.append(Tick(self.at(start), time_text(start)[:16]))
        return ticks


def time_axis(spans: Iterable[tuple[float, float]]) -> TimeAxis:
    """The axis of what went on at these times, from start to stop each."""
    merged = _merged(sorted(spans), 0.0)
    gap = max(1.0, _IDLE * sum(stop - start for start, stop in merged))
    parts = _merged(merged, gap)
    while len(parts) > _MOST_PARTS:
        gap *= 2
        parts = _merged(merged, gap)
    return TimeAxis(tuple(parts))


def _merged(spans: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for start, stop in spans:
        if out and start <= out[-1][1] + gap:
            out[-1] = out[-1][0], max(out[-1][1], stop)
        else:
            out.append((start, stop))
    return out


def time_text(seconds: float) -> str:
    """2026-12-01 13:53:08 UTC, of seconds since 1970."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "at no time"
