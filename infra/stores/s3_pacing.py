"""A bound on requests per second: what a busy server, or a bill, asks for.

Promises: requests of this process to one server leave at least 1 / rate seconds apart, every retry counted, however
many threads and stores send them. A token bucket that holds one token: after a pause there is no burst, so the bound
holds in every second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

_paces: dict[tuple[object, ...], Pace] = {}
_lock = threading.Lock()


class Pace:
    """Lets callers pass at a steady rate. Thread-safe.

    Args:
        rate: passes per second.
        clock: seconds, never going back.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, rate: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._interval, self._clock, self._sleep = 1 / rate, clock, sleep
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)  # not under the lock: the next ones take their turns meanwhile


def keep_pace(client: Any, rate: float) -> None:
    """Bound a boto3 client's requests; clients of one server and one rate share the bound."""
    # A forked process starts afresh: the bound is each process's own.
    key = (os.getpid(), client.meta.endpoint_url, rate)
    with _lock:
        pace = _paces.setdefault(key, Pace(rate))

    def wait(**_: object) -> None:
        """Botocore sends the request if None is returned."""
        pace.wait()

    # Emitted for every attempt. First, so that boto3's own measure of the rate sees the pace that there is.
    client.meta.events.register_first("before-send.s3", wait)
