"""Reading objects: whole, or exactly the bytes asked for; a broken answer is taken up where it broke.

Promises: never bytes of two versions of an object; never more bytes moved than asked for; memory bounded by bytes that
really came, whatever a server claims.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from contextlib import closing
from typing import Any

from nwc_core.errors import NotFoundError, PermissionDeniedError, StoreError
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_errors import error_code, plain_words

# Python reserves the memory of a read before the bytes come, so a read of all that a header claims could be the end.
_PIECE = 8 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def read_object(bucket: Bucket, key: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of an object, not empty; up to its end without `stop`.

    Raises:
        NotFoundError, PermissionDeniedError: from the server.
        StoreError: fewer bytes are there, the connection broke too often, or the object was replaced meanwhile.
    """
    reading = _Reading(bucket, key, start, stop)
    for attempt in itertools.count(1):
        try:
            reading.go_on()
            break
        except _BrokenOffError as error:
            if attempt >= bucket.options.max_attempts:
                raise StoreError(error.key, f"{error.reason}, still after {attempt} attempts") from error
        time.sleep(random.uniform(0, 0.1 * 2 ** min(attempt, 5)))
    return b"".join(reading.pieces)


class _BrokenOffError(StoreError):
    """An answer that began well and broke; worth another try."""


class _Reading:
    """One object being read: the pieces so far, and which version of it they are."""

    def __init__(self, bucket: Bucket, key: str, start: int, stop: int | None) -> None:
        self.bucket, self.key, self.start, self.stop = bucket, key, start, stop
        self.where = bucket.where(key)
        self.pieces: list[bytes] = []
        self.version: str | None = None

    def go_on(self) -> None:
        """Ask for what is missing and read it."""
        at = self.start + sum(map(len, self.pieces))
        if self.stop is not None and at == self.stop:
            return
        ranged = at > 0 or self.stop is not None
        header = {"Range": f"bytes={at}-{'' if self.stop is None else self.stop - 1}"} if ranged else {}
        try:
            answer = self.bucket.call("get_object", self.key, **header)
        except (NotFoundError, PermissionDeniedError):
            raise
        except StoreError as error:
            if error_code(error) in ("InvalidRange", "416"):
                raise self._too_short(self.bucket.call("head_object", self.key)["ContentLength"]) from error
            raise
        with closing(answer["Body"]):  # what is not wanted is not read: the connection goes instead
            self._check_version(answer)
            self._read(answer["Body"], self._length(answer, at, ranged))

    def _length(self, answer: dict[str, Any], at: int, ranged: bool) -> int | None:
        """How many bytes will come; None if the server does not say."""
        claimed = answer.get("ContentLength")
        if not ranged:
            if claimed is not None:
                self.stop = self.start + claimed
            return claimed
        content_range = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        if content_range is None:
            if at == 0 and self.stop == claimed:
                return claimed
            if at == 0 and claimed is not None and self.stop is not None and claimed < self.stop:
                raise self._too_short(claimed)
            raise StoreError(self.where, f"{self.bucket.endpoint} ignored the byte range [{at}, {self.stop})")
        first, last, total = map(int, content_range.groups())
        wanted = (total if self.stop is None else self.stop) - at
        if first == at and last + 1 - first < wanted and last + 1 == total:
            raise self._too_short(total)
        if first != at or last + 1 - first != wanted:
            raise StoreError(
                self.where, f"{self.bucket.endpoint} sent bytes [{first}, {last + 1}); wanted [{at}, {at + wanted})"
            )
        return wanted

    def _read(self, body: Any, length: int | None) -> None:
        left = length
        try:
            while left is None or left > 0:
                with plain_words(self.where, self.bucket.endpoint):
                    piece = body.read(_PIECE if left is None else min(left, _PIECE))
                if not piece:
                    break
                self.pieces.append(piece)
                left = None if left is None else left - len(piece)
        except StoreError as error:
            raise _BrokenOffError(self.where, error.reason) from error
        if left:
            raise _BrokenOffError(self.where, f"{self.bucket.endpoint} broke off with {left} bytes missing")

    def _check_version(self, answer: dict[str, Any]) -> None:
        version = answer.get("ETag")
        if self.pieces and version != self.version:
            raise StoreError(self.where, "the object was replaced while it was read; read it again")
        self.version = version

    def _too_short(self, size: int) -> StoreError:
        return StoreError(self.where, f"wanted bytes [{self.start}, {self.stop}), found {size} bytes")
