"""Models side by side, each in a thread of this process, which mostly waits for workers and stores.

Not `concurrent.futures`: at the end of a program that joins its threads, and one that waits for a lost store would keep the
program from ever ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.2  # how late an interrupt may be noticed
_GRACE_SECONDS = 30.0  # that threads get to end by themselves


class Stop:
    """Tells threads that they are to end; thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self.cause: BaseException | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def now(self, cause: BaseException) -> None:
        """The first cause is kept."""
        with self._lock:
            self.cause = self.cause or cause
        self._event.set()


def run_side_by_side(function: Callable[[T], None], items: Sequence[T], threads: int, stop: Stop) -> None:
    """Call a function with every item, in order, several at a time.

    After `stop`, or an interrupt, no item is begun, and those under way get some time to end.

    Raises:
        BaseException: what the function raised first, or the cause of the stop, or KeyboardInterrupt.
    """
    waiting = deque(items)

    def work() -> None:
        while not stop:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                function(item)
            except BaseException as error:
                stop.now(error)

    running = [
        threading.Thread(target=work, name=f"nwc-model-{i}", daemon=True) for i in range(min(threads, len(items)))
    ]
    for thread in running:
        thread.start()
    try:
        while any(thread.is_alive() for thread in running) and not stop:
            for thread in running:
                thread.join(_POLL_SECONDS / len(running))
    except KeyboardInterrupt as interrupt:
        stop.now(interrupt)
    deadline = time.monotonic() + _GRACE_SECONDS
    for thread in running:
        thread.join(max(0.0, deadline - time.monotonic()))
    if stop.cause is not None:
        raise stop.cause
