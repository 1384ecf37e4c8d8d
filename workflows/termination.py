"""SIGTERM ends a command as Ctrl-C does: what `docker stop`, Kubernetes, batch systems and `ray job stop` send first.

Promises: blocks are left in order, so a local Ray is stopped and no upload is left behind; a second signal does not
break into that. Python's default would end the process on the spot.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports for a process ended by it


@contextmanager
def interrupted_by_sigterm() -> Iterator[list[int]]:
    """In the block SIGTERM raises KeyboardInterrupt, the first time.

    The list that is given holds what was received: Ray's waits turn whatever a handler raises into a KeyboardInterrupt,
    so the exception itself cannot say which signal it was.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python leaves signals to the main thread
        yield received
        return

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
