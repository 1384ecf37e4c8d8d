"""What is said while work goes on, on stderr: lines for people, or with ``NWC_LOG=json`` one JSON object each.

An object has `time` (UTC, ISO 8601), `level` (info or error), `event`, `message` (the line that people would see), and
whatever else that event has to say in numbers: what a log collector can filter and count.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from nwc_core.errors import UsageError
from nwc_workflows.wording import places_text

VARIABLE = "NWC_LOG"


def check_form() -> None:
    """Raises UsageError if the variable says neither `text` nor `json`."""
    form = os.environ.get(VARIABLE) or "text"
    if form not in ("text", "json"):
        raise UsageError(f"{VARIABLE}={form}; wanted text or json")


def structured() -> bool:
    """Whether lines are JSON."""
    return os.environ.get(VARIABLE) == "json"


def say(line: str, event: str = "note", level: str = "info", fields: Mapping[str, Any] | None = None) -> None:
    """Say a line, with `fields` beside it where lines are JSON."""
    if structured():
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
        line = json.dumps({**head, "message": line, **(fields or {})}, default=str)
    else:
        line = places_text(line)
    print(line, file=sys.stderr, flush=True)
