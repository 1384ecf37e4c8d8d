"""Multipart uploads that killed writers left behind, over pages, among those of others."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from s3_server import Fault, Proxy, new_bucket, raw_client

from nwc_core.errors import PermissionDeniedError, StoreError
from nwc_core.store import Upload
from nwc_infra.stores.s3 import S3Store
from nwc_infra.stores.s3_client import Bucket
from nwc_infra.stores.s3_options import S3Options


@pytest.fixture
def store(server: str, proxy: Proxy) -> S3Store:
    return S3Store(f"s3://{new_bucket(server)}/p", options=S3Options(endpoint_url=proxy.url))


def abandon(store: S3Store, key: str) -> str:
    """What a writer killed in the middle leaves: an upload with a part. Its id."""
    client = raw_client(store.bucket.endpoint)
    upload = client.create_multipart_upload(Bucket=store.bucket.name, Key=key)["UploadId"]
    client.upload_part(Bucket=store.bucket.name, Key=key, UploadId=upload, PartNumber=1, Body=b"part")
    return str(upload)


def test_only_uploads_below_the_root_are_found_and_only_the_named_one_is_aborted(store, proxy):
    first, second = abandon(store, "p/a/payload"), abandon(store, "p/a/payload")
    other, outside = abandon(store, "p/b"), abandon(store, "pq")
    store.put("a/payload", b"precious")
    assert {(upload.key, upload.id) for upload in store.uploads()} == {
        ("a/payload", first),
        ("a/payload", second),
        ("b", other),
    }
    assert {upload.id for upload in store.uploads("a/")} == {first, second}
    proxy.log.clear()
    store.abort(Upload("a/payload", first, 0.0))
    assert proxy.counts() == {"DELETE": 1}
    assert {upload.id for upload in store.uploads()} == {second, other}
    assert store.get("a/payload") == b"precious"
    whole_bucket = S3Store(f"s3://{store.bucket.name}", options=store.bucket.options)
    assert {upload.id for upload in whole_bucket.uploads()} == {second, other, outside}


def test_an_upload_that_is_gone_is_no_error_and_one_without_an_id_deletes_nothing(store, proxy):
    store.put("a", b"x")
    upload = Upload("a", abandon(store, "p/a"), 0.0)
    store.abort(upload)
    store.abort(upload)
    proxy.log.clear()
    with pytest.raises(StoreError, match="without an id"):
        store.abort(Upload("a", "", 0.0))
    assert proxy.log == []
    assert store.get("a") == b"x"


def test_a_missing_permission_is_named(store, proxy):
    proxy.faults.append(Fault(lambda r: True, instead=(403, "AccessDenied")))
    with pytest.raises(PermissionDeniedError, match="s3:ListBucketMultipartUploads"):
        list(store.uploads())
    with pytest.raises(PermissionDeniedError, match="s3:AbortMultipartUpload"):
        store.abort(Upload("a", "1", 0.0))


class Pages:
    """A server's pages: moto has only one, of any size. Each answers the request with its markers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: dict[tuple[str, str], dict[str, Any]]) -> None:
        self.asked: list[tuple[str, str]] = []

        def call(_: Bucket, operation: str, key: None = None, **arguments: Any) -> dict[str, Any]:
            assert (operation, arguments["Prefix"]) == ("list_multipart_uploads", "p/")
            self.asked.append((arguments.get("KeyMarker", ""), arguments.get("UploadIdMarker", "")))
            assert len(self.asked) < 10
            return pages[self.asked[-1]]

        monkeypatch.setattr(Bucket, "call", call)


def page(*uploads: tuple[str, str], then: tuple[str, str] | None = None) -> dict[str, Any]:
    when = datetime.datetime(2001, 9, 9, 1, 46, 40, tzinfo=datetime.UTC)
    entries = [{"Key": key, "UploadId": name, "Initiated": when} for key, name in uploads]
    if then is None:
        return {"Uploads": entries, "IsTruncated": False}
    return {"Uploads": entries, "IsTruncated": True, "NextKeyMarker": then[0], "NextUploadIdMarker": then[1]}


def test_all_pages_are_read_also_within_one_key(store, monkeypatch):
    pages = Pages(
        monkeypatch,
        {
            ("", ""): page(("p/a", "1"), ("p/a", "2"), then=("p/a", "2")),
            ("p/a", "2"): page(("p/a", "3"), then=("p/a", "3")),
            ("p/a", "3"): page(then=("p/b", "")),  # all of it outside of the prefix, say
            ("p/b", ""): page(("p/c", "4")),
        },
    )
    wanted = [Upload("a", "1", 1e9), Upload("a", "2", 1e9), Upload("a", "3", 1e9), Upload("c", "4", 1e9)]
    assert list(store.uploads()) == wanted
    assert pages.asked == [("", ""), ("p/a", "2"), ("p/a", "3"), ("p/b", "")]


@pytest.mark.parametrize(
    "pages",
    [
        {("", ""): page(("p/a", "1"), then=("p/a", "1")), ("p/a", "1"): page(("p/b", "2"), then=("p/a", "1"))},
        {("", ""): {"IsTruncated": True}},
        {("", ""): page(("elsewhere", "1"))},
    ],
    ids=["in a circle", "to nowhere", "of another prefix"],
)
def test_a_listing_that_misleads_is_refused(store, monkeypatch, pages):
    Pages(monkeypatch, pages)
    with pytest.raises(StoreError, match="could be missed"):
        list(store.uploads())


def test_an_upload_without_a_date_does_not_look_old(store, monkeypatch):
    Pages(monkeypatch, {("", ""): {"Uploads": [{"Key": "p/a", "UploadId": "1"}]}})
    monkeypatch.setattr("nwc_infra.stores.s3_unfinished.time.time", lambda: 7.0)
    assert list(store.uploads()) == [Upload("a", "1", 7.0)]
