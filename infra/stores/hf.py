"""A model on the Hugging Face Hub as a store to read from.

Promises: everything is read from one commit, which the revision is resolved to at the first request, once, also for the
processes that the store is sent to; bytes move by range, and exactly those; nothing is written, ever. Session, token,
endpoint and retries are huggingface_hub's own. A store carries no token to other processes: each finds its own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import version as package_version
from typing import Any, NoReturn
from urllib.parse import quote

from nwc_core.errors import NotFoundError, StoreError, UsageError
from nwc_core.store import ObjectInfo, Role, Upload
from nwc_infra.stores.hf_download import RETRIES, read_range
from nwc_infra.stores.hf_errors import plain_words
from nwc_infra.stores.hf_location import parse_location
from nwc_infra.stores.keys import key_fault

_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ_ONLY = "the Hugging Face Hub is only read from; write to a folder or to s3://, and upload that (hf upload)"


class HfStore:
    """The files of a model repository, or of a folder in it, at one commit.

    Args:
        uri: "hf://organisation/model", with "@revision" and "/folder" if wanted, see nwc_infra.stores.hf_location.
        role: as for every store; makes no difference here.
        endpoint: URL of the Hub; None for huggingface_hub's, which HF_ENDPOINT sets.

    Attributes:
        uri: without a slash at the end.
        location: its parts.
        endpoint: without a slash at the end.

    Raises:
        UsageError: the URI is not of that form, or huggingface_hub is not installed.
    """

    def __init__(self, uri: str, role: Role | None = None, endpoint: str | None = None) -> None:
        self.location = parse_location(uri)
        self.uri = self.location.uri
        try:
            from huggingface_hub import constants
        except ImportError as error:
            raise UsageError(
                f"{uri}: the Hugging Face Hub is read by huggingface_hub; pip install 'nwc[hf]'"
            ) from error
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise UsageError(f"HF_ENDPOINT: found {self.endpoint!r}; wanted a URL such as https://huggingface.co")
        self._commit = self.location.revision if _COMMIT.fullmatch(self.location.revision) else None
        self._files: dict[str, tuple[int, str]] | None = None  # by key: size and version
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"HfStore({self.uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        """With the commit: elsewhere, and later, the revision may lead to another one. Without the token."""
        return {**vars(self), "_commit": self.commit, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @property
    def commit(self) -> str:
        """What the revision is: 40 hexadecimal digits. One request, the first time; none if the URI names the commit.

        Raises:
            NotFoundError, PermissionDeniedError, StoreError: the Hub does not say.
        """
        with self._lock:
            if self._commit is None:
                self._commit = self._resolve()
            return self._commit

    def size(self, key: str) -> int:
        """Size of an object in bytes. No request, once the files were listed."""
        return self._entry(key)[0]

    def version(self, key: str) -> str:
        """SHA-256 of a large object, Git's digest of a small one. No request, once the files were listed."""
        return self._entry(key)[1]

    def get(self, key: str) -> bytes:
        """The whole object. One GET and what the Hub redirects it to."""
        return self.get_range(key, 0, self.size(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them. One GET and what the Hub redirects it to; none if the range is empty.

        Raises:
            StoreError: the object ends before `stop`, or the range is none.
        """
        full = self._full(key)
        if not 0 <= start <= stop:
            raise StoreError(self._where(key), f"wanted bytes [{start}, {stop}), which is no range")
        if start == stop or self._files is not None:
            size = self.size(key)
            if stop > size:
                raise StoreError(self._where(key), f"wanted bytes [{start}, {stop}), found {size} bytes")
            if start == stop:
                return b""
        with plain_words(self._where(key), self.endpoint, self.location.repo):
            url = f"{self.endpoint}/{self.location.repo}/resolve/{self.commit}/{quote(full)}"
            return read_range(url, self._headers(), start, stop, self._where(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with prefix, in key order. One request for each 1,000, the first time.

        The Hub tells no times of change in a listing.
        """
        for key, (size, _) in self._listing().items():
            if key.startswith(prefix):
                yield ObjectInfo(key, size)

    def put(self, key: str, data: bytes | memoryview) -> NoReturn:
        """Not possible. Raises StoreError, as all that writes."""
        raise StoreError(self._where(key), _READ_ONLY)

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> NoReturn:
        """Not possible."""
        raise StoreError(self._where(key), _READ_ONLY)

    def create(self, key: str, data: bytes | memoryview) -> NoReturn:
        """Not possible."""
        raise StoreError(self._where(key), _READ_ONLY)

    def delete(self, key: str) -> NoReturn:
        """Not possible."""
        raise StoreError(self._where(key), _READ_ONLY)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """None: nothing is written."""
        return iter(())

    def abort(self, upload: Upload) -> NoReturn:
        """Not possible."""
        raise StoreError(self._where(upload.key), _READ_ONLY)

    def _resolve(self) -> str:
        from huggingface_hub import constants
        from huggingface_hub.utils import hf_raise_for_status, http_backoff

        url = f"{self.endpoint}/api/models/{self.location.repo}/revision/{quote(self.location.revision, safe='')}"
        with plain_words(self.uri, self.endpoint, self.location.repo):
            answer = http_backoff(
                "GET", url, headers=self._headers(), timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, **RETRIES
            )
            hf_raise_for_status(answer)
            found = answer.json()
        commit = found.get("sha") if isinstance(found, dict) else None
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise StoreError(self.uri, f"{self.endpoint} answered, but named no commit; check HF_ENDPOINT")
        return commit

    def _listing(self) -> dict[str, tuple[int, str]]:
        """Sizes and versions by key, in key order; asked for once, since a commit does not change."""
        with self._lock:
            if self._files is None:
                root = f"{self.location.folder}/" if self.location.folder else ""
                found = self._tree()
                self._files = {key.removeprefix(root): found[key] for key in sorted(found) if key.startswith(root)}
            return self._files

    def _tree(self) -> dict[str, tuple[int, str]]:
        """All files of the commit. Whatever a stranger's server answers, it gives no keys that lead elsewhere."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(endpoint=self.endpoint)
        with plain_words(self.uri, self.endpoint, self.location.repo):
            try:
                entries = list(api.list_repo_tree(self.location.repo, recursive=True, revision=self.commit))
                return {
                    entry.path: (int(entry.size), str(entry.lfs.sha256 if entry.lfs else entry.blob_id))
                    for entry in entries
                    if isinstance(entry, RepoFile)
                }
            except (KeyError, TypeError, AttributeError) as error:
                raise StoreError(self.uri, f"{self.endpoint} lists files, but not as the Hub does") from error

    def _entry(self, key: str) -> tuple[int, str]:
        self._full(key)
        entry = self._listing().get(key)
        if entry is None:
            raise NotFoundError(self._where(key), "no such object")
        return entry

    def _full(self, key: str) -> str:
        """A sound key, within the repository."""
        if fault := key_fault(key):
            raise StoreError(f"{self.uri} key {key!r}", f"{fault}; wanted parts joined by '/' below the store's root")
        return f"{self.location.folder}/{key}" if self.location.folder else key

    def _where(self, key: str) -> str:
        return f"{self.uri} key {key!r}" if key_fault(key) else f"{self.uri}/{key}"

    def _headers(self) -> dict[str, str]:
        """As every request of huggingface_hub; read anew each time, so that a token may be renewed."""
        from huggingface_hub.utils import build_hf_headers

        return dict(build_hf_headers(library_name="nwc", library_version=package_version("nwc")))
