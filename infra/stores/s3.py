"""S3, and every server that speaks its protocol, as an object store.

Promises: bytes move by range, and exactly those; an object is whole or not there; create-if-absent has one winner, or
the store says that the server cannot do it; every failure is one of nwc's errors and names the object in full. A store
carries its options to other processes and never a secret: each process finds its credentials for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from nwc_core.errors import StoreError, UsageError
from nwc_core.store import ObjectInfo, Role, Upload
from nwc_infra.stores.keys import key_fault
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_conditional import PROBE_PREFIX, create_object
from nwc_infra.stores.s3_download import read_object
from nwc_infra.stores.s3_errors import error_code
from nwc_infra.stores.s3_options import S3Options, options_from_environment
from nwc_infra.stores.s3_unfinished import abort_upload, list_uploads
from nwc_infra.stores.s3_upload import upload

SCHEME = "s3://"
MAX_PUT_NBYTES = 64 << 20  # larger objects go up in parts: side by side, and a broken one costs one part
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


class S3Store:
    """A store of the objects of a bucket below one prefix. The bucket must exist, the prefix need not.

    Args:
        uri: "s3://bucket" or "s3://bucket/prefix", with or without a slash at the end, taken literally.
        role: which of the environment's settings count, see nwc_infra.stores.s3_options.
        options: instead of the environment's.

    Attributes:
        uri: without a slash at the end.
        bucket: the bucket and its options.
        root: prefix of all keys, "" or with a slash at the end.

    Raises:
        UsageError: the URI is not of that form, or a setting in the environment is wrong.
    """

    def __init__(self, uri: str, role: Role | None = None, options: S3Options | None = None) -> None:
        name, _, prefix = uri.removeprefix(SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(name):
            raise UsageError(f"{uri}: not an S3 location; wanted s3://bucket or s3://bucket/prefix")
        if prefix and (fault := key_fault(prefix)):
            raise UsageError(f"{uri!r}: the prefix is {fault}; wanted parts joined by '/'")
        self.bucket = Bucket(name, options_from_environment(role) if options is None else options)
        self.root = f"{prefix}/" if prefix else ""
        self.uri = f"{SCHEME}{name}/{prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def size(self, key: str) -> int:
        """Size of an object in bytes. One HEAD."""
        return int(self._head(key)["ContentLength"])

    def version(self, key: str) -> str:
        """The object's ETag. One HEAD."""
        return str(self._head(key)["ETag"])

    def _head(self, key: str) -> dict[str, Any]:
        full = self._full(key)
        try:
            return dict(self.bucket.call("head_object", full))
        except StoreError as error:
            if error_code(error) in ("400", "403"):
                # The answer to a HEAD has a number and no words; a GET that fails alike says what is wrong.
                self.bucket.call("get_object", full, Range="bytes=0-0")["Body"].close()
            raise

    def get(self, key: str) -> bytes:
        """The whole object. One GET."""
        return read_object(self.bucket, self._full(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), all of them. One GET of that range; one HEAD if it is empty.

        Raises:
            StoreError: the object ends before `stop`, or the range is none.
        """
        full = self._full(key)
        if not 0 <= start <= stop:
            raise StoreError(self.bucket.where(full), f"wanted bytes [{start}, {stop}), which is no range")
        if start < stop:
            return read_object(self.bucket, full, start, stop)
        size = self.size(key)
        if stop > size:
            raise StoreError(self.bucket.where(full), f"wanted bytes [{start}, {stop}), found {size} bytes")
        return b""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with prefix, in key order. One LIST for each 1,000.

        Empty objects whose key ends with "/" are the folders of web consoles and are left out. Other keys that no
        store of nwc would write are listed: whoever wants them meets the refusal, and nothing is missing silently.
        """
        if not _can_be_asked(prefix):
            return
        arguments: dict[str, Any] = {"Prefix": self.root + prefix}
        last = ""
        while True:
            page = self.bucket.call("list_objects_v2", **arguments)
            for entry in page.get("Contents", ()):
                key, size = entry["Key"].removeprefix(self.root), int(entry["Size"])
                if not entry["Key"].startswith(self.root + prefix) or (last and key <= last):
                    self._refuse_listing(entry["Key"])
                last = key
                # Those of stores with roots further down, too, which a process left that was killed in the middle of its proof.
                if not key.rpartition("/")[2].startswith(PROBE_PREFIX) and not (
                    size == 0 and (not key or key.endswith("/"))
                ):
                    yield ObjectInfo(key, size, entry["LastModified"].timestamp() if "LastModified" in entry else 0.0)
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == arguments.get("ContinuationToken"):
                self._refuse_listing(self.root + last)
            arguments["ContinuationToken"] = token

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, atomically; replaces one that is there. One PUT up to MAX_PUT_NBYTES."""
        if memoryview(data).nbytes > MAX_PUT_NBYTES:
            self.put_stream(key, (data,))
        else:
            self.bucket.call("put_object", self._full(key), Body=bytes(data), **self.bucket.options.write_arguments())

    def put_stream(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object from its parts, in order, atomically; replaces one that is there.

        One PUT up to 8 MiB; else a multipart upload of parts of at least 8 MiB, four at a time, and two requests more.
        """
        upload(self.bucket, self._full(key), chunks)

    def create(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, atomically, only if absent. One conditional PUT, after a proof (three requests, once).

        Raises:
            AlreadyExistsError: something has that key; it was not touched.
            StoreError: the server ignores conditional writes, and the options do not allow that.
        """
        create_object(self.bucket, self.root, self._full(key), bytes(data))

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error. One DELETE."""
        self.bucket.call("delete_object", self._full(key))

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        """Multipart uploads that were not completed, whose key starts with prefix. One request for each 1,000."""
        if _can_be_asked(prefix):
            yield from list_uploads(self.bucket, self.root, prefix)

    def abort(self, upload: Upload) -> None:
        """Remove the parts of a multipart upload; a missing one is no error. One request."""
        abort_upload(self.bucket, self._full(upload.key), upload.id)

    def _full(self, key: str) -> str:
        """A sound key with the store's root before it."""
        fault = key_fault(key)
        if fault is None and key.rpartition("/")[2].startswith(PROBE_PREFIX):
            fault = f"a name that starts with {PROBE_PREFIX}, kept for the store's own use"
        if fault:
            raise StoreError(f"{self.uri} key {key!r}", f"{fault}; wanted parts joined by '/' below the store's root")
        return self.root + key

    def _refuse_listing(self, key: str) -> None:
        raise StoreError(
            self.bucket.where(key), f"{self.bucket.endpoint} lists objects out of order, so some could be missed"
        )


def _can_be_asked(prefix: str) -> bool:
    """Whether some object of S3 can have such a key at all; some servers fail over the question."""
    return "\0" not in prefix and key_fault(f"{prefix}x") != key_fault("\ud800")
