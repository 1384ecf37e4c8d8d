"""Decoding many blocks in their order, ahead of whoever takes them, and never more in memory than a bound.

What writes files one after the other (`nwc decompress`, `nwc export`, `nwc cat`) takes its tensors from here, so that
neither the store nor a core waits for the file, and a tensor larger than memory passes through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES

if TYPE_CHECKING:
    import torch

MAX_NBYTES_IN_FLIGHT = 128 << 20  # decoded bytes of blocks that are begun and not taken


def decoded_blocks(artifact: Artifact, rows: Sequence[BlockRow]) -> Iterator[torch.Tensor]:
    """The blocks, decoded and checked, each of its own shape, in the order of `rows`.

    Raises:
        IntegrityError, FormatError: a block is damaged; those before it were given.
    """
    waiting, begun = deque(rows), deque[tuple[int, "Future[torch.Tensor]"]]()
    in_flight = 0
    # One thread: more were slower, measured, as each starts a team of torch's own.
    with ThreadPoolExecutor(1, "nwc-block") as pool:
        try:
            while waiting or begun:
                while waiting and (not begun or in_flight + _nbytes(waiting[0]) <= MAX_NBYTES_IN_FLIGHT):
                    row = waiting.popleft()
                    in_flight += _nbytes(row)
                    begun.append((_nbytes(row), pool.submit(artifact.decode_block, row)))
                nbytes, future = begun.popleft()
                yield future.result()
                in_flight -= nbytes
                del future  # or its tensor would stay until the next one is taken
        finally:  # an error here, or a reader who stops: what has not begun need not
            pool.shutdown(wait=False, cancel_futures=True)


def _nbytes(row: BlockRow) -> int:
    return row.numel * DTYPES[row.dtype].itemsize
