"""Reading and decoding blocks side by side: some threads wait for the store while others decode what has come.

Promises: bounded memory, whatever is read; the first error ends everything and is the caller's; when the call is over,
by an error or Ctrl-C too, so are its threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from nwc_core.artifact.ranges import Request
from nwc_core.errors import UsageError
from nwc_core.openmp import work_alone

if TYPE_CHECKING:
    from nwc_core.artifact.index import BlockRow

    Read = Callable[[Request], bytes]
    Decode = Callable[[BlockRow, memoryview, int], None]

# Readers wait most of the time, so there are more of them than cores; beyond 16 a single machine's network is full.
READERS_PER_CORE, MAX_READERS = 3, 16
# Decoding takes about 20 bytes of memory for each of a block's weights, up to 8 million of them: 16 blocks, 2.6 GB.
# Machines with more cores use the others inside the blocks.
MAX_DECODERS = 16
# Small blocks are decoded by the handful: handing one over takes as long as decoding it.
BATCH_NBYTES = 16 << 10
# Blocks that are smaller than this on average keep the interpreter busy, which runs one thread at a time anyway.
SMALL_NBYTES = 2 << 10
# Bytes asked for and not decoded yet. Enough for every reader's request at its largest; less would make readers wait.
MAX_NBYTES_IN_FLIGHT = 256 << 20


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """How many threads are meant.

    Raises:
        UsageError: fewer than one.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}; wanted at least 1")
    return threads or available_cores()


def fetch(requests: Sequence[Request], read: Read, decode: Decode, threads: int | None = None) -> None:
    """Read all requests and decode all their blocks, in any order.

    Args:
        requests: what to read; started in this order.
        read: gives the bytes of a request. Called on several threads.
        decode: decode(block, its bytes, threads to use) does what is wanted with a block. Called on several threads.
        threads: to decode on, all cores if None; reading takes up to three times as many more.

    Raises:
        UsageError: `threads` is below 1.
        Exception: the first one that `read` or `decode` raised. What runs at that moment is waited for, the rest
            does not start.
    """
    threads = check_threads(threads)
    blocks = [row for request in requests for row in request.blocks]
    if len(blocks) == 1:  # nothing to do side by side
        decode(blocks[0], memoryview(read(requests[0])), threads)
    elif blocks:
        with Workers(blocks, len(requests), threads) as workers:
            workers.run(requests, read, decode)


class Workers:
    """The threads that read and those that decode, for one `run` or for several at once.

    `with` ends them: what waits is dropped, what runs is waited for.

    Args:
        blocks: some at least, all that there will be.
        requests: how many, at most, there are to read at once.
        threads: to decode on.
    """

    def __init__(self, blocks: Sequence[BlockRow], requests: int, threads: int) -> None:
        decoders = min(threads, MAX_DECODERS, len(blocks))
        if sum(row.length for row in blocks) < SMALL_NBYTES * len(blocks):
            decoders = 1
        self._threads_each = -(-threads // decoders)
        readers = min(READERS_PER_CORE * threads, MAX_READERS, requests)
        self._reading = ThreadPoolExecutor(readers, "nwc-read")
        self._decoding = ThreadPoolExecutor(decoders, "nwc-decode", work_alone)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reading.shutdown()
        self._decoding.shutdown()

    def stop(self) -> None:
        """Start nothing more; runs under way end with an error of no meaning, each as soon as what it started is done."""
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._decoding.shutdown(wait=False, cancel_futures=True)

    def run(self, requests: Sequence[Request], read: Read, decode: Decode) -> None:
        """What `fetch` does. Called on several threads, each with requests of its own.

        Raises:
            Exception: the first one that `read` or `decode` raised; nothing of this run is under way any more.
        """
        # This thread alone hands out the work, so that nothing here needs a lock. Not concurrent.futures.wait: it looks at
        # every future each time, which thousands of small tensors would feel.
        done: SimpleQueue[tuple[Request, Future[bytes | None]]] = SimpleQueue()
        pending: set[Future[bytes | None]] = set()

        def start(pool: ThreadPoolExecutor, request: Request, job: Callable[[], bytes | None]) -> None:
            future = pool.submit(job)
            pending.add(future)
            future.add_done_callback(lambda future: done.put((request, future)))

        def decode_all(batch: list[tuple[BlockRow, memoryview]]) -> None:
            for row, piece in batch:
                decode(row, piece, self._threads_each)

        waiting = deque(requests)
        batches_left: dict[Request, int] = {}
        in_flight = 0
        try:
            while waiting or batches_left:
                # A request larger than the bound goes alone.
                while waiting and (not batches_left or in_flight + waiting[0].nbytes <= MAX_NBYTES_IN_FLIGHT):
                    request = waiting.popleft()
                    in_flight += request.nbytes
                    batches_left[request] = 0
                    start(self._reading, request, partial(read, request))
                request, future = done.get()
                pending.discard(future)
                data = future.result()
                if data is not None:
                    batches = _batches(request, memoryview(data))
                    batches_left[request] = len(batches)
                    for batch in batches:
                        start(self._decoding, request, partial(decode_all, batch))
                    del batches, batch
                else:
                    batches_left[request] -= 1
                    if not batches_left[request]:
                        del batches_left[request]
                        in_flight -= request.nbytes
                del data, future  # or the bytes would stay until the next event
        except BaseException:
            # Not for those that were cancelled: of one that never began `wait` may never hear.
            wait([future for future in pending if not future.cancel()])
            raise


def _batches(request: Request, data: memoryview) -> list[list[tuple[BlockRow, memoryview]]]:
    """The blocks of a request with their bytes, small ones together."""
    found: list[list[tuple[BlockRow, memoryview]]] = []
    nbytes = BATCH_NBYTES
    for row in request.blocks:
        if nbytes >= BATCH_NBYTES:
            found.append([])
            nbytes = 0
        at = row.offset - request.start
        found[-1].append((row, data[at : at + row.length]))
        nbytes += row.length
    return found
