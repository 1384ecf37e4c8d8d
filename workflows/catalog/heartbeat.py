"""Signs of life of the models that run: whoever reads a record can tell a run that lives from one that was killed."""

from __future__ import annotations

import threading
from contextlib import suppress

from nwc_core.errors import StoreError
from nwc_workflows.catalog.records import HEARTBEAT_SECONDS, Records, Status


class Heartbeat:
    """Writes the records of running models anew, in a thread of its own, as long as the `with` block lasts."""

    def __init__(self, records: Records, seconds: float = HEARTBEAT_SECONDS) -> None:
        self._records, self._seconds = records, seconds
        self._running: dict[str, Status] = {}
        self._lock = threading.Lock()  # also held while one is written: none is written behind its end
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="nwc-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self, status: Status) -> None:
        """Write a model's record, and go on doing so. Raises StoreError."""
        self._records.write(status)
        with self._lock:
            self._running[status.name] = status

    def end(self, status: Status) -> None:
        """Write it for the last time. Raises StoreError."""
        with self._lock:
            self._running.pop(status.name, None)
        self._records.write(status)

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            with self._lock:
                names = list(self._running)
            for name in names:
                with (
                    self._lock,
                    suppress(StoreError),
                ):  # the next one may succeed; the end is written by the model itself
                    if name in self._running:
                        self._records.write(self._running[name].changed())
