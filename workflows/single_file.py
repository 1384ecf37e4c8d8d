"""A single file as output, at a local path or below any store's URI: never half-written, replaced only if asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nwc_core.errors import AlreadyExistsError, UsageError
from nwc_core.store import Store, open_store
from nwc_workflows.checkpoint_writer import exists


@dataclass(frozen=True)
class SingleFile:
    """Where a file goes.

    Attributes:
        store: of the folder.
        key: the file's name in it.
    """

    store: Store
    key: str

    @property
    def where(self) -> str:
        """The place in full."""
        return f"{self.store.uri}/{self.key}"

    def write(self, chunks: Iterable[bytes]) -> int:
        """Write it, atomically; its size in bytes. An error of `chunks` leaves what was there."""
        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk)
                yield chunk

        self.store.put_stream(self.key, counted())
        return size


def single_file(place: str, *, force: bool = False) -> SingleFile:
    """The file at a place, before anything is written to it.

    Args:
        place: a local path, or a URI of any store.
        force: whether a file that is there may be replaced.

    Raises:
        AlreadyExistsError: the file is there; it was not touched.
        UsageError: the place is a folder.
    """
    parent, _, key = place.rpartition("/") if "://" in place else (str(Path(place).parent), "", Path(place).name)
    if not key or ("://" not in place and Path(place).is_dir()):
        raise UsageError(f"{place}: found a folder; wanted the name of a file")
    file = SingleFile(open_store(parent, "destination"), key)
    if not force and exists(file.store, key):
        raise AlreadyExistsError(file.where, "already exists; nothing was written; --force replaces it")
    return file
