"""What nwc asks of an object store, and how a URI finds one.

The core never imports a store: packages register theirs under the entry-point group ``nwc.stores``, named by URI
scheme, and one is loaded when a URI first asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from nwc_core.errors import UsageError

Role = Literal["source", "destination"]  # what a URI is in a command: credentials may differ between the two


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object.

    Attributes:
        key: relative to the store's root, with "/" between parts.
        size: in bytes.
        modified: when it was last written, in seconds since 1970 by the store's clock; 0 if the store does not know.
    """

    key: str
    size: int
    modified: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Upload:
    """A write that has begun and not ended: it is under way, or its writer was killed and left it behind.

    No listing of objects shows it, and it takes room that is paid for.

    Attributes:
        key: what is being written, as far as the store knows: a local disk names the unfinished file itself.
        id: the store's own name of it.
        started: when it began, in seconds since 1970 by the store's clock; a local disk gives the time of the last
            change.
    """

    key: str
    id: str
    started: float


@runtime_checkable
class Store(Protocol):
    """A flat set of immutable byte objects under one root URI. Keys are relative to the root, parts joined by "/".

    All methods raise NotFoundError, PermissionDeniedError, AlreadyExistsError or their base StoreError, naming the key.
    A store is thread-safe. It can be pickled: a worker process rebuilds its connections for itself.
    """

    uri: str

    def size(self, key: str) -> int:
        """Size of an object in bytes."""
        ...

    def version(self, key: str) -> str:
        """What changes whenever the object is written anew, even with content of the same size."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object."""
        ...

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), exactly stop - start of them; fewer in the object is a StoreError."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with prefix, in key order. A missing root lists nothing."""
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write atomically: a reader sees all of it or none. May replace an object."""
        ...

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Like put, from parts in order, so that an object larger than memory can be written."""
        ...

    def create(self, key: str, data: bytes | memoryview) -> None:
        """Write atomically only if absent, else AlreadyExistsError; of many racing writers exactly one wins."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Unfinished writes whose key starts with prefix, in no order. A store that leaves none behind has none."""
        return iter(())

    def abort(self, upload: Upload) -> None:
        """Remove what an unfinished write has left; one that is gone is no error. A writer still at it will fail."""


def open_store(uri: str | Path | Store, role: Role | None = None) -> Store:
    """The store behind a URI ("s3://bucket/prefix", "file:///folder") or a local path.

    Args:
        uri: a store is returned as it is.
        role: what the URI is to the caller; a store may take settings of that role from the environment.

    Raises:
        UsageError: no store is registered for the URI's scheme.
    """
    if not isinstance(uri, str | Path):
        return uri
    text = str(uri)
    scheme = text.split("://", 1)[0] if "://" in text else "file"
    found = {point.name: point for point in entry_points(group="nwc.stores")}
    if scheme not in found:
        raise UsageError(f"{text}: no store is registered for {scheme}://; known schemes: {', '.join(sorted(found))}")
    store: Store = found[scheme].load()(text, role)
    return store
