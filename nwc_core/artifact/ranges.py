"""Which byte ranges to ask a store for, given the blocks that are wanted. Pure: rows in, requests out.

Blocks that lie next to each other in one payload become one request. Every block is in exactly one request, and all
requests together move at most 1.05 times the bytes of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nwc_core.artifact.index import BlockRow

# A request to an object store costs tens of milliseconds, in which it moves megabytes: larger ones gain little, delay
# the first decoding and leave nothing to read side by side.
MAX_REQUEST_NBYTES = 16 << 20
# Unwanted bytes between two blocks are moved if that is quicker than another request, and few beside the wanted ones.
MAX_GAP_NBYTES = 64 << 10
_WANTED_PER_UNWANTED = 20


@dataclass(frozen=True, eq=False)
class Request:
    """One byte range of one payload.

    Attributes:
        blocks: at least one, all of one object, by offset; the range reaches from the first to the end of the last.
    """

    blocks: tuple[BlockRow, ...]

    @property
    def object(self) -> str:
        """Key of the payload."""
        return self.blocks[0].object

    @property
    def start(self) -> int:
        """First byte in the payload."""
        return self.blocks[0].offset

    @property
    def stop(self) -> int:
        """Byte behind the last one."""
        return self.blocks[-1].offset + self.blocks[-1].length

    @property
    def nbytes(self) -> int:
        """Bytes to move."""
        return self.stop - self.start


def plan_requests(rows: Iterable[BlockRow]) -> list[Request]:
    """The requests for these blocks: payloads in the order of their first block in `rows`, each by offset.

    A request is at most MAX_REQUEST_NBYTES long, unless it is for one larger block alone.

    Args:
        rows: blocks of one checked index, none twice; copies, which have the same bytes, come in one request.
    """
    by_object: dict[str, list[BlockRow]] = {}
    for row in rows:
        by_object.setdefault(row.object, []).append(row)
    return [
        Request(tuple(group))
        for of_object in by_object.values()
        for group in _groups(sorted(of_object, key=lambda row: row.offset))
    ]


def _groups(rows: list[BlockRow]) -> Iterator[list[BlockRow]]:
    """Runs of blocks that are worth one request each. `rows`: of one payload, by offset."""
    group: list[BlockRow] = []
    wanted = 0
    for row in rows:
        if group:
            start, end, stop = group[0].offset, group[-1].offset + group[-1].length, row.offset + row.length
            unwanted = stop - start - wanted - row.length
            if (
                row.offset - end > MAX_GAP_NBYTES
                or stop - start > MAX_REQUEST_NBYTES
                or unwanted * _WANTED_PER_UNWANTED > wanted + row.length
            ):
                yield group
                group, wanted = [], 0
        group.append(row)
        wanted += row.length
    if group:
        yield group
