"""Models that wait for the one that they are coded against.

Bases come first in a run's order, so whoever waits waits for a model that has begun: there is always one that does not.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nwc_core.errors import NwcError
from nwc_workflows.catalog.members import Member
from nwc_workflows.catalog.shares import Stopped

if TYPE_CHECKING:
    from nwc_workflows.catalog.model import Result
    from nwc_workflows.catalog.threads import Stop

_POLL_SECONDS = 0.2  # how late an interrupt may be noticed


class Waits:
    """Ends of the models of a run, by name; models that are not among them have ended before. Thread-safe."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._ends = {member.name: threading.Event() for member in members}
        self._failed: set[str] = set()

    def ended(self, result: Result) -> None:
        """A model has come to its end."""
        if result.outcome == "failed":
            self._failed.add(result.member.name)
        self._ends[result.member.name].set()

    def for_base(self, member: Member, stop: Stop) -> None:
        """Wait until the base of a model is there.

        Raises:
            NwcError: the base failed.
            Stopped: the run is to end.
        """
        end = None if member.base is None else self._ends.get(member.base)
        while end is not None and not end.wait(_POLL_SECONDS):
            if stop:
                raise Stopped
        if member.base in self._failed:
            raise NwcError(f"its base, {member.base}, failed")
