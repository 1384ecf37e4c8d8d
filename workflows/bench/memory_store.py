"""A store in memory that counts what is asked of it: what planning and committing cost, without any server in between."""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import ObjectInfo, Upload

_PAGE = 1000  # objects per request of a listing, as S3's


class MemoryStore:
    """Objects below a root, in memory. Not for several threads that write.

    Args:
        uri: of the root.

    Attributes:
        objects: bytes by key.
        modified: seconds since 1970, by key.
        sizes: of objects that claim to be longer than they are: what is beyond their bytes reads as zeros.
        requests: how often what was asked for; a listing once for each 1,000 objects.
        unfinished: uploads.
    """

    def __init__(self, uri: str = "memory://store") -> None:
        self.uri = uri
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}
        self.sizes: dict[str, int] = {}
        self.requests: Counter[str] = Counter()
        self.unfinished: list[Upload] = []
        self._sorted: list[str] | None = None

    def size(self, key: str) -> int:
        self.requests["HEAD"] += 1
        return self.sizes.get(key) or len(self._object(key))

    def version(self, key: str) -> str:
        self.requests["HEAD"] += 1
        return hashlib.md5(self._object(key), usedforsecurity=False).hexdigest()

    def get(self, key: str) -> bytes:
        self.requests["GET"] += 1
        data = self._object(key)
        return data + bytes(self.sizes.get(key, len(data)) - len(data))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        self.requests["GET"] += 1
        data = self._object(key)
        size = self.sizes.get(key) or len(data)
        if not 0 <= start <= stop <= size:
            raise StoreError(f"{self.uri}/{key}", f"wanted bytes [{start}, {stop}), found {size} bytes")
        found = data[start:stop]
        return found + bytes(stop - start - len(found))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        self.requests["LIST"] += 1
        keys = self._sorted
        first = bisect_left(keys, prefix)
        for index in range(first, len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                return
            if index > first and (index - first) % _PAGE == 0:
                self.requests["LIST"] += 1
            yield ObjectInfo(key, self.sizes.get(key) or len(self.objects[key]), self.modified[key])

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.requests["PUT"] += 1
        if key not in self.objects:
            self._sorted = None
        self.objects[key] = bytes(data)
        self.modified[key] = time.time()

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        self.put(key, b"".join(chunks))

    def create(self, key: str, data: bytes | memoryview) -> None:
        if key in self.objects:
            self.requests["PUT"] += 1
            raise AlreadyExistsError(f"{self.uri}/{key}", "already exists")
        self.put(key, data)

    def delete(self, key: str) -> None:
        self.requests["DELETE"] += 1
        if self.objects.pop(key, None) is not None:
            del self.modified[key]
            self._sorted = None

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        return iter([upload for upload in self.unfinished if upload.key.startswith(prefix)])

    def abort(self, upload: Upload) -> None:
        self.unfinished = [other for other in self.unfinished if other != upload]

    def _object(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFoundError(f"{self.uri}/{key}", "no such object") from None


class Below:
    """The part of a store below a prefix, as a store of its own. Requests count where they always do.

    Args:
        store: the whole.
        prefix: of the keys, with a slash at the end.
    """

    def __init__(self, store: MemoryStore, prefix: str) -> None:
        self.store, self.prefix = store, prefix
        self.uri = f"{store.uri}/{prefix}".rstrip("/")

    def size(self, key: str) -> int:
        return self.store.size(self.prefix + key)

    def version(self, key: str) -> str:
        return self.store.version(self.prefix + key)

    def get(self, key: str) -> bytes:
        return self.store.get(self.prefix + key)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self.store.get_range(self.prefix + key, start, stop)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for info in self.store.list(self.prefix + prefix):
            yield ObjectInfo(info.key.removeprefix(self.prefix), info.size, info.modified)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.store.put(self.prefix + key, data)

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        self.store.put_stream(self.prefix + key, chunks)

    def create(self, key: str, data: bytes | memoryview) -> None:
        self.store.create(self.prefix + key, data)

    def delete(self, key: str) -> None:
        self.store.delete(self.prefix + key)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        return iter(())

    def abort(self, upload: Upload) -> None:
        pass
