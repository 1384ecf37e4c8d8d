"""One progress bar over many models: each has its bytes, however much work it turns out to be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from nwc_workflows.catalog.threads import Stop
from nwc_workflows.progress import Progress


class Stopped(BaseException):
    """Raised inside a model whose run is to end: not an Exception, so that nobody takes it for the model's failure."""


class Share:
    """A model's part of the whole progress.

    Args:
        whole: of all models.
        lock: for it: a progress is not thread-safe.
        nbytes: of this model.
        stop: ends the model between two of its steps.
    """

    def __init__(self, whole: Progress, lock: threading.Lock, nbytes: int, stop: Stop) -> None:
        self._whole, self._lock, self._left, self._nbytes, self._stop = whole, lock, float(nbytes), nbytes, stop

    def show(self, total: float, description: str, unit: str) -> AbstractContextManager[Progress]:
        """A step of the model, as `Output.progress`: bytes advance the whole, anything else only looks for a stop."""
        share = self._nbytes / total if unit == "B" and total > 0 else 0.0
        return _shown(lambda amount: self._advance(amount * share))

    def finish(self) -> None:
        """All of it is done, or never will be."""
        with self._lock:
            self._whole.advance(self._left)
            self._left = 0.0

    def _advance(self, nbytes: float) -> None:
        if self._stop:
            raise Stopped
        with self._lock:
            nbytes = min(nbytes, self._left)  # artifacts on trial take more work than the model has bytes
            self._left -= nbytes
            self._whole.advance(nbytes)


@contextmanager
def _shown(advance: Callable[[float], None]) -> Iterator[Progress]:
    class Step:
        def advance(self, amount: float) -> None:
            advance(amount)

    yield Step()
