"""The coded bytes of blocks, asked for in any order and from any thread, in few requests.

Blocks that lie together are fetched together, at most 16 MiB at a time, and wait as they are, compressed, until they are
asked for. Each waits for one who asks; for others it is read again, alone.
"""

from __future__ import annotations

from threading import Lock

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.objects import check_object
from nwc_core.artifact.ranges import Request, plan_requests
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import IntegrityError, NotFoundError, PermissionDeniedError, StoreError


class BlockBytes:
    """The bytes of all blocks of an artifact.

    Args:
        artifact: where they are.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._requests = {row: request for request in plan_requests(artifact.index) for row in request.blocks}
        self._locks = {request: Lock() for request in self._requests.values()}
        self._waiting: dict[BlockRow, bytes] = {}
        self._done: set[Request] = set()

    def take(self, row: BlockRow) -> bytes:
        """The bytes of a block, digest checked.

        Raises:
            IntegrityError: they are not the ones that were written.
        """
        request = self._requests[row]
        with self._locks[request]:
            if request not in self._done:
                try:
                    self._read(request)
                except (NotFoundError, PermissionDeniedError):
                    raise
                except StoreError:
                    return self._artifact.read_block(row)  # which finds out whether the object was cut off
            data = self._waiting.pop(row, None)
        if data is None:
            return self._artifact.read_block(row)
        try:
            check_object(data, row.length, row.sha256.hex(), row.object)
        except IntegrityError:
            return self._artifact.read_block(row)  # whose error names the place in full
        return data

    def _read(self, request: Request) -> None:
        data = self._artifact.store.get_range(request.object, request.start, request.stop)
        for row in request.blocks:
            at = row.offset - request.start
            self._waiting[row] = data[at : at + row.length]
        self._done.add(request)
