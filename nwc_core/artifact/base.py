"""The artifact that another one's deltas are added to: where it was, whether it is the one, and its elements."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from nwc_core.artifact.manifest import MANIFEST_KEY, Base
from nwc_core.errors import FormatError, IntegrityError, NotFoundError
from nwc_core.store import Store, open_store

if TYPE_CHECKING:
    from nwc_core.artifact.reader import Artifact

_MAX_DEPTH = 64  # of bases that have bases: each costs the decoding of another model


def location_from(base: str, own: str) -> str:
    """Where a base is, seen from an artifact: relative if both are in one bucket or on one disk, else its URI."""
    (scheme, host, path), (own_scheme, own_host, own_path) = _parts(base), _parts(own)
    return posixpath.relpath(path, own_path) if (scheme, host) == (own_scheme, own_host) else base


def resolve(location: str, own: str) -> str:
    """The inverse: the base's URI."""
    if "://" in location:
        return location
    scheme, host, path = _parts(own)
    return f"{scheme}{host}{posixpath.normpath(posixpath.join(path, location))}"


def _parts(uri: str) -> tuple[str, str, str]:
    """("s3://", "bucket", "/prefix"); a local path is one of file://."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return "file://", "", uri
    host, slash, path = rest.partition("/")
    return scheme + mark, host, slash + path or "/"


class BaseSource:
    """The base of an artifact, opened at first use. Thread-safe.

    Args:
        ref: what the artifact's manifest says of it; None if it has none.
        given: where it is now, if the caller knows.
        own: the artifact that needs it.
        opened: opens an artifact, given its store and how many bases may lie below it.
        depth: how many more bases may follow.
    """

    def __init__(
        self,
        ref: Base | None,
        given: str | Path | Store | None,
        own: str,
        opened: Callable[[Store, int], Artifact],
        depth: int | None = None,
    ) -> None:
        self._ref, self._given, self._own, self._opened = ref, given, own, opened
        self._depth = _MAX_DEPTH if depth is None else depth
        self._lock = Lock()
        self._found: Artifact | None = None

    def get(self) -> Artifact:
        """The base.

        Raises:
            FormatError: the artifact names none, though a block of it needs one.
            NotFoundError: it is not where it was.
            IntegrityError: another artifact is there.
        """
        with self._lock:
            if self._found is None:
                self._found = self._open()
            return self._found

    def _open(self) -> Artifact:
        if self._ref is None:
            raise FormatError(f"{self._own}/{MANIFEST_KEY}", "no base", "one, which a block needs")
        if not self._depth:
            raise FormatError(f"{self._own}/{MANIFEST_KEY}", f"a base of a base of ... {_MAX_DEPTH} times", "fewer")
        wanted = f"the base of {self._own}, the artifact whose manifest has SHA-256 {self._ref.manifest_sha256}"
        store = open_store(resolve(self._ref.location, self._own) if self._given is None else self._given)
        try:
            manifest = store.get(MANIFEST_KEY)
        except NotFoundError as error:
            raise NotFoundError(error.key, f"no such object; wanted {wanted}; say where it is now as `base`") from None
        found = hashlib.sha256(manifest).hexdigest()
        if found != self._ref.manifest_sha256:
            raise IntegrityError(
                f"{store.uri}/{MANIFEST_KEY}", f"SHA-256 {found}", f"{wanted}; say where it is as `base`"
            )
        return self._opened(store, self._depth - 1)
