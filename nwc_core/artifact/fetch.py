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
# Small blocks are decoded by the handful: handing one over takes as long as decoding it.
BATCH_NBYTES = 16 << 10
# Blocks that are smaller than this on average keep the interpreter busy, which runs one thread at a time anyway.
SMALL_NBYTES = 2 << 10
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
        if sum(row.length for request in requests for row in request.blocks) < SMALL_NBYTES * n_blocks:
            decoders = 1
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

    def decode_all(batch: list[tuple[BlockRow, memoryview]]) -> None:
        for row, piece in batch:
            decode(row, piece, threads_each)

    waiting = deque(requests)
    batches_left: dict[Request, int] = {}
    in_flight = 0
    while waiting or batches_left:
        # A request larger than the bound goes alone.
        while waiting and (not batches_left or in_flight + waiting[0].nbytes <= MAX_NBYTES_IN_FLIGHT):
            request = waiting.popleft()
            in_flight += request.nbytes
            batches_left[request] = 0
            start(reading, request, partial(read, request))
        request, future = done.get()
        data = future.result()
        if data is not None:
            batches = _batches(request, memoryview(data))
            batches_left[request] = len(batches)
            for batch in batches:
                start(decoding, request, partial(decode_all, batch))
            del batches, batch
        else:
            batches_left[request] -= 1
            if not batches_left[request]:
                del batches_left[request]
                in_flight -= request.nbytes
        del data, future  # or the bytes would stay until the next event


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
