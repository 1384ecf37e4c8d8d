"""A folder as an object store.

Promises: a reader sees an object whole or not at all; create-if-absent has exactly one winner, also between processes;
what was reported written survives a power cut; a failed write leaves nothing behind; no key and no symbolic link
reads or writes outside of the folder. POSIX file systems with hard links.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError, UsageError
from nwc_core.store import ObjectInfo, Role, Upload
from nwc_infra.stores.keys import key_fault
from nwc_infra.stores.local_errors import plain_words
from nwc_infra.stores.local_listing import TEMPORARY_PREFIX, keys_below

SCHEME = "file://"

_NO_HARD_LINKS = "the file system has no hard links, which writing without overwriting needs"


class LocalStore:
    """A store of the files below one folder, which need not exist before the first write.

    Args:
        uri: "file:///folder", "file://folder", "/folder" or "folder", taken literally: no "~", no %-escapes.
        role: as for every store; makes no difference to a folder.

    Attributes:
        uri: "file://" and the absolute path.
        path: the folder, absolute.
    """

    def __init__(self, uri: str | Path, role: Role | None = None) -> None:
        text = str(uri).removeprefix(SCHEME)
        if not text or "://" in text or "\0" in text:
            raise UsageError(f"{uri!s}: not a local folder; wanted file:///folder or a path")
        self.path = Path(os.path.abspath(text))  # noqa: PTH100  (Path.absolute would keep ".." in the URI)
        self.uri = f"{SCHEME}{self.path}"

    def __repr__(self) -> str:
        return f"LocalStore({self.uri!r})"

    def size(self, key: str) -> int:
        """Size of an object in bytes."""
        with self._open(key) as file:
            return os.fstat(file.fileno()).st_size

    def version(self, key: str) -> str:
        """Inode, time of the last change and size of an object."""
        with self._open(key) as file:
            status = os.fstat(file.fileno())
            return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"

    def get(self, key: str) -> bytes:
        """The whole object."""
        with self._open(key) as file:
            return file.read()

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them.

        Raises:
            StoreError: the object ends before `stop`, or the range is none.
        """
        with self._open(key) as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 <= start <= stop <= size:  # before reading: a lying range must not cost memory
                raise StoreError(self._full(key), f"wanted bytes [{start}, {stop}), found {size} bytes")
            file.seek(start)
            data = file.read(stop - start)
            if len(data) != stop - start:
                raise StoreError(self._full(key), f"wanted {stop - start} bytes at {start}, found {len(data)}")
            return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with prefix, in key order; nothing if the folder is missing.

        A link that cannot be read as an object (it leads out of the folder, to a folder, or nowhere) is listed with
        the size of the link itself: whoever wants it meets the refusal, and nothing is missing without a word.
        """
        for key in keys_below(self.path, prefix, unfinished=False):
            if info := self._info(key):
                yield info

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, atomically; replaces one that is there."""
        self.put_stream(key, (data,))

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object from its parts, in order, atomically; replaces one that is there."""
        with self._written(key, chunks) as (temporary, target):
            temporary.replace(target)

    def create(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, atomically, only if absent.

        Raises:
            AlreadyExistsError: something has that key; it was not touched.
        """
        with plain_words(self._full(key)):
            if os.path.lexists(self._place(key)):  # spares writing gigabytes first; the link below decides a race
                raise AlreadyExistsError(self._full(key), "already exists")
        with self._written(key, (data,)) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError as error:
                raise AlreadyExistsError(self._full(key), "already exists") from error
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                    raise StoreError(self._full(key), _NO_HARD_LINKS) from error
                raise

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        with plain_words(self._full(key)):
            path = self._place(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                if not stat.S_ISDIR(path.lstat().st_mode):  # a folder is no object: nothing of that name to remove
                    path.unlink()
                    _sync_folder(path.parent)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Temporary files of writes that have not ended, those of killed writers among them, in key order.

        Key and id are the file's own: it does not say which object it was to become.
        """
        for key in keys_below(self.path, prefix, unfinished=True):
            with plain_words(self._full(key)), suppress(FileNotFoundError):  # ended or aborted by now
                found = (self.path / key).lstat()
                if stat.S_ISREG(found.st_mode):
                    yield Upload(key, key.rpartition("/")[2], found.st_mtime)

    def abort(self, upload: Upload) -> None:
        """Remove a temporary file; a missing one is no error.

        Raises:
            StoreError: the upload is none of this store, or a link leads out of the folder.
        """
        folder, _, name = upload.key.rpartition("/")
        if key_fault(upload.key) or name != upload.id or not name.startswith(TEMPORARY_PREFIX):
            raise StoreError(f"{self.uri} key {upload.key!r}", f"no unfinished write; wanted {TEMPORARY_PREFIX}...")
        with plain_words(self._full(upload.key)):
            path = self._inside(upload.key, self.path / folder) / name
            with suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISREG(path.lstat().st_mode):
                    path.unlink()
                    _sync_folder(path.parent)

    def _full(self, key: str) -> str:
        return f"{self.uri.rstrip('/')}/{key}"

    def _checked(self, key: str) -> Path:
        """The file of a sound key, its links not followed."""
        fault = key_fault(key)
        if fault is None and any(part.startswith(TEMPORARY_PREFIX) for part in key.split("/")):
            fault = f"a key with a part that starts with {TEMPORARY_PREFIX}, kept for unfinished writes"
        if fault:
            raise StoreError(f"{self.uri} key {key!r}", f"{fault}; wanted parts joined by '/' below the store's root")
        return self.path / key

    def _inside(self, key: str, path: Path, *, reading: bool = False) -> Path:
        """A path with its links followed, below the root for certain.

        A downloaded folder may hold a link to any private file of its reader, or to a file that a write would ruin.
        """
        root = Path(os.path.realpath(self.path))
        target = Path(os.path.realpath(path))
        allowed = [root, *_blob_folders(root)] if reading else [root]
        if not any(target.is_relative_to(folder) for folder in allowed):
            raise StoreError(self._full(key), f"refused: a symbolic link leads out of the folder, to {target}")
        return target

    def _place(self, key: str) -> Path:
        """Where a write of a key goes: a link of that name is replaced, not followed, and refused if it leads out."""
        path = self._checked(key)
        self._inside(key, path)
        return self._inside(key, path.parent) / path.name

    @contextmanager
    def _open(self, key: str) -> Iterator[BinaryIO]:
        """An object opened for reading; a folder or device of that name is no object."""
        with plain_words(self._full(key)):
            path = self._inside(key, self._checked(key), reading=True)
            try:
                # Without O_NONBLOCK a named pipe in a hostile folder would hang its reader for ever.
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except NotADirectoryError as error:
                raise NotFoundError(self._full(key), "no such object") from error
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise NotFoundError(self._full(key), "no such object (a folder or a device has that name)")
            with os.fdopen(descriptor, "rb") as file:
                yield file

    @contextmanager
    def _written(self, key: str, chunks: Iterable[bytes | memoryview]) -> Iterator[tuple[Path, Path]]:
        """Data safe on disk under a temporary name beside its target: (temporary, target).

        The body gives it its name. Afterwards the temporary name is gone and, after a failure, so are new folders.
        """
        with plain_words(self._full(key)):
            target = self._place(key)
            temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            made = _missing_folders(target.parent)
            try:
                for folder in reversed(made):
                    folder.mkdir(exist_ok=True)  # another writer may have been faster
                with temporary.open("xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())  # else a power cut may leave the name with nothing behind it
                try:
                    yield temporary, target
                except FileNotFoundError as error:
                    raise StoreError(self._full(key), "somebody else aborted this write") from error
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                for folder in made:
                    with suppress(OSError):  # not empty: another writer uses it by now
                        folder.rmdir()
                raise
            with suppress(FileNotFoundError):  # renamed by put; still there after create
                temporary.unlink()
            _sync_folder(target.parent)
            for folder in made:  # their own names, too
                _sync_folder(folder.parent)

    def _info(self, key: str) -> ObjectInfo | None:
        """The listing's entry of a key, or None if it is gone by now."""
        path = self._checked(key)
        with plain_words(self._full(key)), suppress(FileNotFoundError):
            found = path.lstat()
            with suppress(StoreError):
                if stat.S_ISLNK(found.st_mode):
                    with self._open(key) as file:
                        found = os.fstat(file.fileno())
            return ObjectInfo(key, found.st_size, found.st_mtime)
        return None


def _blob_folders(root: Path) -> Iterator[Path]:
    """Where a Hugging Face cache keeps the files that `…/snapshots/<revision>` links to, if the root is one."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots":
            yield folder.parent.parent / "blobs"


def _missing_folders(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist yet, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _sync_folder(folder: Path) -> None:
    """Make a change of names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
