"""A file that a command writes: at a path or a URI, whole or not at all, and over another one only if that is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nwc_core.errors import AlreadyExistsError
from nwc_core.store import Store, open_store
from nwc_workflows.checkpoint_writer import exists


@dataclass(frozen=True)
class OneFile:
    """A place that may be written to.

    Attributes:
        store: of the folder.
        key: of the file in it.
    """

    store: Store
    key: str

    @property
    def uri(self) -> str:
        return f"{self.store.uri}/{self.key}"

    def write(self, chunks: Iterable[bytes]) -> int:
        """Write it, atomically; its size in bytes. What `chunks` raises leaves what was there."""
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk)
                yield chunk

        self.store.put_stream(self.key, counted())
        return size


def one_file(place: str, *, force: bool = False) -> OneFile:
    """A place, before any work is done for it.

    Args:
        place: a local path, or a URI of any store.
        force: whether a file that is there may be replaced.

    Raises:
        AlreadyExistsError: the file is there.
    """
    parent, _, key = place.rpartition("/") if "://" in place else (str(Path(place).parent), "", Path(place).name)
    found = OneFile(open_store(parent, "destination"), key)
    if not force and exists(found.store, key):
        raise AlreadyExistsError(found.uri, "already exists; nothing was written; --force replaces it")
    return found
