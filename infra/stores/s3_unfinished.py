"""Multipart uploads that nobody completed: invisible in every listing of objects, and paid for.

Promises: all of them below a prefix are found, however many there are; aborting touches no object.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from nwc_core.errors import StoreError
from nwc_core.store import Upload
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_errors import error_code

_PAGE = 1000  # uploads per request, the most that S3 gives


def list_uploads(bucket: Bucket, root: str, prefix: str) -> Iterator[Upload]:
    """Uploads whose key starts with root and prefix; their keys are relative to root.

    Raises:
        StoreError: the server refused, or its pages lead nowhere.
    """
    arguments: dict[str, Any] = {"Prefix": root + prefix, "MaxUploads": _PAGE}
    while True:
        page = bucket.call("list_multipart_uploads", **arguments)
        for entry in page.get("Uploads", ()):
            if not entry["Key"].startswith(root + prefix):
                raise _misled(bucket, entry["Key"])
            # Without a date an upload must not look abandoned.
            started = entry["Initiated"].timestamp() if "Initiated" in entry else time.time()
            yield Upload(entry["Key"].removeprefix(root), entry["UploadId"], started)
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
        markers = {name: value for name, value in markers.items() if value}
        if not markers.get("KeyMarker") or markers.items() <= arguments.items():
            raise _misled(bucket, root + prefix)
        arguments = {"Prefix": root + prefix, "MaxUploads": _PAGE, **markers}


def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    """Remove an upload and its parts; one that is gone is no error.

    Args:
        bucket: where it is.
        key: full key.
        upload_id: not empty: the request without an id deletes the object.

    Raises:
        StoreError: the server refused, or the id is empty.
    """
    if not upload_id:
        raise StoreError(bucket.where(key), "found an upload without an id; wanted one that `uploads` has given")
    try:
        bucket.call("abort_multipart_upload", key, UploadId=upload_id)
    except StoreError as error:
        if error_code(error) not in ("NoSuchUpload", "404"):
            raise


def _misled(bucket: Bucket, key: str) -> StoreError:
    return StoreError(
        bucket.where(key), f"{bucket.endpoint} lists other uploads than asked for, so some could be missed"
    )
