"""The files below a folder as keys in key order: those of objects, or those of unfinished writes.

Promises: links to folders are not followed, so no circle and no way out; folders nest without limit; a folder that goes
away meanwhile is no error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nwc_infra.stores.local_errors import plain_words

TEMPORARY_PREFIX = ".nwc-tmp-"  # of unfinished writes; never listed as an object, never a key


def keys_below(root: Path, prefix: str, *, unfinished: bool) -> Iterator[str]:
    """Keys of files, relative to root, that start with prefix; none if root is missing.

    Args:
        root: absolute.
        prefix: by characters, not by folders.
        unfinished: only names with TEMPORARY_PREFIX, else only others. Folders with such a name are passed by.

    Raises:
        StoreError: a folder cannot be read.
    """
    pending = [""]  # still to visit, last first; folders end with "/"
    while pending:
        key = pending.pop()
        if key == "" or key.endswith("/"):
            if key.startswith(prefix) or prefix.startswith(key):
                pending += _children(root, key, unfinished=unfinished)
        elif key.startswith(prefix):
            yield key


def _children(root: Path, folder: str, *, unfinished: bool) -> tuple[str, ...]:
    """Keys in a folder, folders with a trailing "/", in reverse key order."""
    names = []
    with plain_words(f"file://{root}/{folder}"):
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    is_temporary = entry.name.startswith(TEMPORARY_PREFIX)
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if not is_temporary if is_folder else is_temporary == unfinished:
                        names.append(folder + entry.name + ("/" if is_folder else ""))
        except (FileNotFoundError, NotADirectoryError):
            return ()
    return tuple(sorted(names, reverse=True))
