"""Create-if-absent on S3: a PutObject with If-None-Match, and the proof that the server heeds the condition.

Some servers accept the condition and overwrite all the same. Before the first creation in a bucket a process therefore
asks for proof: it creates an object under a reserved name twice, and the second time must fail. That costs two PUTs and
a DELETE, once per process and bucket, and touches no other object. Amazon S3 documents the condition and is believed.
"""

from __future__ import annotations

import random
import time
import uuid
from contextlib import suppress

from nwc_core.errors import AlreadyExistsError, NotFoundError, PermissionDeniedError, StoreError
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_errors import error_code

PROBE_PREFIX = ".nwc-probe-"  # never listed, never a key
_WRITER = "nwc-writer"  # metadata: tells our own object from a rival's when an answer was lost
_TAKEN = ("PreconditionFailed", "412")
_CONTENDED = ("ConditionalRequestConflict", "ConcurrentModification", "OperationAborted", "409")
_proven: set[tuple[str, str]] = set()


def create_object(bucket: Bucket, root: str, key: str, data: bytes) -> None:
    """Write an object only if absent.

    Args:
        bucket: to write in.
        root: prefix of keys that this store may use, for the probe.
        key: full key.
        data: content.

    Raises:
        AlreadyExistsError: something has that key; it was not touched.
        StoreError: the server ignores conditions (nothing was written), or refused.
    """
    arguments = {"Body": data, **bucket.options.write_arguments()}
    if bucket.options.allow_unconditional:
        if writer_of(bucket, key) is not None:
            raise AlreadyExistsError(bucket.where(key), "already exists")
        bucket.call("put_object", key, **arguments)
        return
    _prove(bucket, root)
    writer = uuid.uuid4().hex
    try:
        _put_if_absent(bucket, key, **arguments, Metadata={_WRITER: writer})
    except PermissionDeniedError:
        raise
    except StoreError as error:
        with suppress(StoreError):
            # An answer may get lost after the server has written; the repeated request then finds its own object.
            if writer_of(bucket, key) == writer:
                return
        if error_code(error) in _TAKEN:
            raise AlreadyExistsError(bucket.where(key), "already exists") from error
        raise


def new_writer() -> dict[str, str]:
    """Metadata that marks one write."""
    return {_WRITER: uuid.uuid4().hex}


def writer_of(bucket: Bucket, key: str) -> str | None:
    """The mark of an object's write, empty if it has none; None if there is no object."""
    try:
        metadata = bucket.call("head_object", key).get("Metadata", {})
    except NotFoundError:
        return None
    return str(metadata.get(_WRITER, ""))


def _put_if_absent(bucket: Bucket, key: str, **arguments: object) -> None:
    """A conditional PUT; asked again while the server says that somebody else is at it."""
    for attempt in range(bucket.options.max_attempts):
        try:
            bucket.call("put_object", key, IfNoneMatch="*", **arguments)
        except StoreError as error:
            if error_code(error) not in _CONTENDED or attempt == bucket.options.max_attempts - 1:
                raise
        else:
            return
        time.sleep(random.uniform(0, 0.1 * 2 ** min(attempt, 5)))


def _prove(bucket: Bucket, root: str) -> None:
    """See to it that the server heeds If-None-Match. Raises StoreError if it does not."""
    # The client's own: a profile may bring the endpoint, and two servers may have buckets of one name.
    place = (bucket.client().meta.endpoint_url, bucket.name)
    if place in _proven or bucket.is_aws:
        return
    probe = f"{root}{PROBE_PREFIX}{uuid.uuid4().hex}"
    arguments = {"Body": b"", **bucket.options.write_arguments()}
    try:
        for _ in range(2):
            _put_if_absent(bucket, probe, **arguments)
    except StoreError as error:
        if error_code(error) in _TAKEN:
            _proven.add(place)
            return
        if error_code(error) in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest"):
            raise _no_conditions(bucket, "refuses conditional writes (If-None-Match)") from error
        raise
    finally:
        with suppress(StoreError):  # no permission to delete: an empty object stays, which no listing of ours shows
            bucket.call("delete_object", probe)
    raise _no_conditions(bucket, "ignores conditional writes (If-None-Match): it overwrote an object")


def _no_conditions(bucket: Bucket, what: str) -> StoreError:
    return StoreError(
        bucket.where(""),
        f"{bucket.endpoint} {what}, so two jobs that finish at once could overwrite each other's result. Nothing was "
        "written. Use a server that heeds them, or, if only one job writes to a place, set "
        "NWC_DESTINATION_ALLOW_UNCONDITIONAL=true",
    )
