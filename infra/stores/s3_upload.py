"""Objects of any size from parts in order: one PUT if small, a multipart upload if not.

Promises: nothing is visible before all of it is there; a failure leaves no upload behind; memory holds at most
N_IN_FLIGHT + 1 parts.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from nwc_core.errors import StoreError
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_conditional import new_writer, writer_of

N_IN_FLIGHT = 4  # parts on their way while the next one is being made
MIN_PART_NBYTES = 8 << 20  # S3 wants 5 MiB; smaller parts are all latency
PARTS_PER_SIZE = 1000  # then the size doubles: 8 TB in the 10,000 parts that S3 allows, 8 GB in the smallest ones


def part_nbytes(number: int) -> int:
    """Size in bytes of part `number`, from 1: known without knowing the object's size in advance."""
    return MIN_PART_NBYTES << ((number - 1) // PARTS_PER_SIZE)


def upload(bucket: Bucket, key: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Write an object; replaces one that is there.

    Raises:
        StoreError: the store refused; the key is as it was.
    """
    parts = _parts(chunks)
    first = next(parts)
    second = next(parts, None)
    if second is None:
        bucket.call("put_object", key, Body=first, **bucket.options.write_arguments())
        return
    mark = new_writer()
    started = bucket.call("create_multipart_upload", key, Metadata=mark, **bucket.options.write_arguments())
    target = {"key": key, "UploadId": started["UploadId"]}
    try:
        done = _send(bucket, target, _all(first, second, parts))
        _complete(bucket, target, done, mark)
    except BaseException:
        # Parts of an upload that is not aborted are invisible, and paid for.
        with suppress(StoreError):
            bucket.call("abort_multipart_upload", **target)
        raise


def _all(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    del first, second
    yield from rest


def _send(bucket: Bucket, target: dict[str, Any], parts: Iterator[bytes]) -> list[dict[str, Any]]:
    """Upload all parts; returns their numbers and tags in order. Ends with no request under way."""
    done: list[dict[str, Any]] = []
    pending: deque[tuple[int, Future[dict[str, Any]]]] = deque()

    def wait_for_one() -> None:
        number, future = pending.popleft()
        done.append({"PartNumber": number, "ETag": future.result()["ETag"]})

    # Leaving the block waits: a part that arrives after the abort would stay for ever.
    with ThreadPoolExecutor(N_IN_FLIGHT) as pool:
        try:
            for number, part in enumerate(parts, start=1):
                if len(pending) == N_IN_FLIGHT:
                    wait_for_one()
                pending.append(
                    (number, pool.submit(bucket.call, "upload_part", **target, PartNumber=number, Body=part))
                )
            while pending:
                wait_for_one()
        finally:
            for _, future in pending:
                future.cancel()
    return done


def _complete(bucket: Bucket, target: dict[str, Any], done: list[dict[str, Any]], mark: dict[str, str]) -> None:
    try:
        bucket.call("complete_multipart_upload", **target, MultipartUpload={"Parts": done})
    except StoreError:
        # An answer may get lost after the server has completed; the repeated request then finds no such upload.
        with suppress(StoreError):
            if writer_of(bucket, target["key"]) in mark.values():
                return
        raise


def _parts(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The same bytes cut into parts; at least one, maybe empty."""
    number = 1
    buffer = io.BytesIO()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while len(view):
            room = part_nbytes(number) - buffer.tell()
            buffer.write(view[:room])
            view = view[room:]
            if buffer.tell() == part_nbytes(number):
                yield buffer.getvalue()
                number += 1
                buffer = io.BytesIO()
    if number == 1 or buffer.tell():
        yield buffer.getvalue()
