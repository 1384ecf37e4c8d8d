"""Linear algebra on one thread, so that encoding gives the same bytes however many threads a process has.

BLAS adds in an order that depends on its number of threads. Decoding needs no such care: its sums are exact.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limit:
    """The limit of the whole process, held as long as anyone needs it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.held: Any = None

    def take(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.held = _controller().limit(limits=1, user_api="blas")

    def release(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.held.restore_original_limits()


_limit = _Limit()


@cache
def _controller() -> ThreadpoolController:
    import numpy.linalg  # noqa: F401  finds only libraries that are loaded

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread until the last of several users, in whatever threads, is done."""
    _limit.take()
    try:
        yield
    finally:
        _limit.release()
