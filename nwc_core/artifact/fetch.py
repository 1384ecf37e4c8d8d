"""Reading and decoding blocks side by side: some threads wait for the store while others decode what has come.

Promises: bounded memory, whatever is read; the first error ends everything and is the caller's; when the call is over,
by an error or Ctrl-C too, so are its threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from nwc_core.artifact.ranges import Request
from nwc_core.errors import UsageError

if TYPE_CHECKING:
    from nwc_core.artifact.index import BlockRow

    Read = Callable[[Request], bytes]
    Decode = Callable[[BlockRow, memoryview, int], None]

# Readers wait most of the time, so there are more of them than cores; beyond 16 a single machine's network is full.
READERS_PER_CORE, MAX_READERS = 3, 16
# Decoding takes about 20 bytes of memory for each of a block's weights, up to 8 million of them: 16 blocks, 2.6 GB.
# Machines with more cores use the others inside the blocks.
MAX_DECODERS = 16
# Bytes asked for and not decoded yet. Enough for every reader's request at its largest; less would make readers wait.
MAX_NBYTES_IN_FLIGHT = 256 << 20


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    if threads is not None and threads < 1:
        raise UsageError(f"threads {threads}; wanted at least 1")
    threads = threads or available_cores()
    n_blocks = sum(len(request.blocks) for request in requests)
    if n_blocks == 1:  # nothing to do side by side
        row = requests[0].blocks[0]
        decode(row, memoryview(read(requests[0])), threads)
    elif n_blocks:
        decoders = min(threads, MAX_DECODERS, n_blocks)
        readers = min(READERS_PER_CORE * threads, MAX_READERS, len(requests))
        with (
            ThreadPoolExecutor(readers, "nwc-read") as reading,
            ThreadPoolExecutor(decoders, "nwc-decode") as decoding,
        ):
            try:
                _run(requests, read, decode, -(-threads // decoders), reading, decoding)
            except BaseException:
                reading.shutdown(wait=False, cancel_futures=True)
                decoding.shutdown(wait=False, cancel_futures=True)
                raise


def _run(
    requests: Sequence[Request],
    read: Read,
    decode: Decode,
    threads_each: int,
    reading: ThreadPoolExecutor,
    decoding: ThreadPoolExecutor,
) -> None:
    """Hand out the work from this thread alone, so that nothing here needs a lock."""
    # Not concurrent.futures.wait: it looks at every future each time, which thousands of small tensors would feel.
    done: SimpleQueue[tuple[Request, Future[bytes | None]]] = SimpleQueue()

    def start(pool: ThreadPoolExecutor, request: Request, job: Callable[[], bytes | None]) -> None:
        pool.submit(job).add_done_callback(lambda future: done.put((request, future)))

    waiting = deque(requests)
    blocks_left: dict[Request, int] = {}
    in_flight = 0
    while waiting or blocks_left:
        # A request larger than the bound goes alone.
        while waiting and (not blocks_left or in_flight + waiting[0].nbytes <= MAX_NBYTES_IN_FLIGHT):
            request = waiting.popleft()
            in_flight += request.nbytes
            blocks_left[request] = len(request.blocks)
            start(reading, request, partial(read, request))
        request, future = done.get()
        data = future.result()
        if data is not None:
            for row in request.blocks:
                at = row.offset - request.start
                piece = memoryview(data)[at : at + row.length]
                start(decoding, request, partial(decode, row, piece, threads_each))
            del piece
        else:
            blocks_left[request] -= 1
            if not blocks_left[request]:
                del blocks_left[request]
                in_flight -= request.nbytes
        del data, future  # or the bytes would stay until the next event
