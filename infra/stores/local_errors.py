"""What the operating system reports about files, as nwc's errors: the object, and what happened in plain words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from nwc_core.errors import NotFoundError, PermissionDeniedError, StoreError

_REASONS: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOENT: (NotFoundError, "no such object"),
    errno.EACCES: (PermissionDeniedError, "permission denied"),
    errno.EPERM: (PermissionDeniedError, "operation not permitted"),
    errno.EROFS: (PermissionDeniedError, "the file system is read-only"),
    errno.ENOSPC: (StoreError, "no space left on the device"),
    errno.EDQUOT: (StoreError, "the disk quota is used up"),
    errno.EFBIG: (StoreError, "larger than the file system or the process limit allows"),
    errno.EISDIR: (StoreError, "a folder of that name is in the way"),
    errno.ENOTDIR: (StoreError, "an object is in the way, where a folder is needed"),
    errno.EEXIST: (StoreError, "an object is in the way, where a folder is needed"),
    errno.ENAMETOOLONG: (StoreError, "the name is longer than the file system allows"),
    errno.ELOOP: (StoreError, "a symbolic link leads to itself"),
}


@contextmanager
def plain_words(where: str) -> Iterator[None]:
    """Turn the system's errors into the store's.

    Args:
        where: the object in full, file:///folder/key.
    """
    try:
        yield
    except StoreError:  # an OSError too
        raise
    except OSError as error:
        kind, reason = _REASONS.get(error.errno or 0, (StoreError, error.strerror or str(error)))
        raise kind(where, reason) from error
