"""Reading and decoding side by side: bounds, shares, and how it ends."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from block_rows import block

from nwc_core.artifact import fetch as fetch_module
from nwc_core.artifact.fetch import MAX_READERS, fetch
from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.ranges import Request
from nwc_core.errors import StoreError


class Work:
    """Read and decode for `fetch` that note what happens. Subclasses misbehave."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.read: list[Request] = []
        self.decoded: list[tuple[BlockRow, bytes, int]] = []

    def on_read(self, request: Request) -> bytes:
        with self.lock:
            self.read.append(request)
        return bytes(range(request.start, request.stop))

    def on_decode(self, row: BlockRow, data: memoryview, threads: int) -> None:
        with self.lock:
            self.decoded.append((row, bytes(data), threads))


def scattered(n: int, length: int = 10) -> list[Request]:
    """n requests of two blocks each."""
    return [Request((block(0, length, key), block(length, length, key))) for key in map(str, range(n))]


@pytest.fixture(autouse=True)
def no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks here are of some bytes, and to be taken for larger ones."""
    monkeypatch.setattr(fetch_module, "SMALL_NBYTES", 0)
    monkeypatch.setattr(fetch_module, "BATCH_NBYTES", 1)
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nwc-")]


@pytest.mark.parametrize(
    ("requests", "threads", "each"),
    [(scattered(5), 4, 1), (scattered(1), 8, 4), (scattered(1), 1, 1), ([Request((block(3, 9),))], 7, 7), ([], 3, 0)],
)
def test_every_block_gets_its_bytes_and_its_share_of_the_threads(
    requests: list[Request], threads: int, each: int
) -> None:
    work = Work()
    fetch(requests, work.on_read, work.on_decode, threads)
    assert sorted(map(id, work.read)) == sorted(map(id, requests))
    rows = [row for request in requests for row in request.blocks]
    assert sorted(id(row) for row, _, _ in work.decoded) == sorted(map(id, rows))
    for row, data, used in work.decoded:
        assert data == bytes(range(row.offset, row.offset + row.length)) and used == each


def test_reading_goes_on_side_by_side_and_while_blocks_decode() -> None:
    decoded, together = threading.Event(), threading.Barrier(3)

    class Waiting(Work):
        def on_read(self, request: Request) -> bytes:
            if request is requests[-1]:
                assert decoded.wait(20)  # hangs unless another request's blocks decode meanwhile
            else:
                together.wait(20)  # hangs unless three are read at once
            return super().on_read(request)

        def on_decode(self, row: BlockRow, data: memoryview, threads: int) -> None:
            decoded.set()

    requests = scattered(4)
    work = Waiting()
    fetch(requests, work.on_read, work.on_decode, 2)
    assert len(work.read) == 4


def test_bytes_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "MAX_NBYTES_IN_FLIGHT", 100)

    class Slow(Work):
        now = peak = readers = most_readers = 0

        def on_read(self, request: Request) -> bytes:
            with self.lock:
                self.now += request.nbytes
                self.peak = max(self.peak, self.now)
                self.readers += 1
                self.most_readers = max(self.most_readers, self.readers)
            time.sleep(0.002)
            with self.lock:
                self.readers -= 1
            return super().on_read(request)

        def on_decode(self, row: BlockRow, data: memoryview, threads: int) -> None:
            time.sleep(0.001)
            with self.lock:
                self.now -= len(data)

    work = Slow()
    fetch([*scattered(30, 7), *scattered(1, 75), *scattered(30, 20)], work.on_read, work.on_decode, 20)
    assert len(work.read) == 61
    assert work.peak == 150  # the one that is larger than the bound, alone
    work = Slow()
    fetch(scattered(60, 7), work.on_read, work.on_decode, 20)
    assert 14 < work.peak <= 100
    monkeypatch.setattr(fetch_module, "MAX_NBYTES_IN_FLIGHT", 1 << 20)
    work = Slow()
    fetch(scattered(60), work.on_read, work.on_decode, 20)
    assert 1 < work.most_readers <= MAX_READERS


@pytest.mark.parametrize("when", ["read", "decode"])
@pytest.mark.parametrize("n", [1, 300])
def test_the_first_error_ends_everything(when: str, n: int) -> None:
    class Failing(Work):
        def on_read(self, request: Request) -> bytes:
            data = super().on_read(request)
            time.sleep(0.01)
            if when == "read":
                raise StoreError(request.object, "no")
            return data

        def on_decode(self, row: BlockRow, data: memoryview, threads: int) -> None:
            if when == "decode":
                raise StoreError(row.object, "no")

    work = Failing()
    with pytest.raises(StoreError, match="no"):
        fetch(scattered(n), work.on_read, work.on_decode, 2)
    assert n == 1 or len(work.read) < n  # the rest never started


def test_an_interrupt_ends_everything() -> None:
    class Interrupting(Work):
        def on_read(self, request: Request) -> bytes:
            data = super().on_read(request)
            if next(reads) == 10:  # by then the main thread waits; a second signal would come while it cleans up
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.05)
            return data

    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reads = itertools.count(1)
    work = Interrupting()
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(scattered(200), work.on_read, work.on_decode, 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(work.read) < 50


def test_small_blocks_go_together_and_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "SMALL_NBYTES", 11)
    monkeypatch.setattr(fetch_module, "BATCH_NBYTES", 35)
    used = set()

    class Noting(Work):
        def on_decode(self, row: BlockRow, data: memoryview, threads: int) -> None:
            used.add((threading.current_thread().name, threads))
            super().on_decode(row, data, threads)

    request = Request(tuple(block(10 * i, 10) for i in range(20)))
    work = Noting()
    fetch([request], work.on_read, work.on_decode, 4)
    assert len(used) == 1
    assert [id(row) for row, _, _ in work.decoded] == [id(row) for row in request.blocks]
    assert all(data == bytes(range(row.offset, row.offset + 10)) for row, data, _ in work.decoded)
