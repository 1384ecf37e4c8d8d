"""The S3 store on a real server: the suite that every store passes, and what only a large object meets."""

import itertools
import time

import pytest

from nwc_core.errors import StoreError
from nwc_infra.stores import s3_unfinished
from nwc_infra.stores.conformance import StoreConformance
from nwc_infra.stores.s3 import S3Store

_count = itertools.count()


@pytest.fixture(scope="module")
def shared_bucket(direct):
    direct.create_bucket(Bucket="conformance")
    return "conformance"


class TestCephStore(StoreConformance):
    @pytest.fixture
    def store(self, proxy, shared_bucket):
        return S3Store(f"s3://{shared_bucket}/{next(_count)}")


def large():
    """40 MB in pieces, which is five parts."""
    return (bytes([i]) * (4 << 20) for i in range(10))


def test_a_large_object_goes_up_in_parts(proxy, bucket, direct):
    S3Store(f"s3://{bucket}/x").put_stream("large", large())
    parts = [request.received for request in proxy.requests if "partNumber=" in request.path]
    assert sorted(parts) == [8 << 20] * 5
    assert direct.get_object(Bucket=bucket, Key="x/large")["Body"].read() == b"".join(large())
    assert "Uploads" not in direct.list_multipart_uploads(Bucket=bucket)


def test_the_gateway_is_killed_in_the_middle_of_a_multipart_upload(proxy, bucket, direct, outage, report):
    """The upload goes on when the gateway is back, or fails and leaves nothing to see."""
    store = S3Store(f"s3://{bucket}/x")
    killing = outage("PUT", "partNumber=3")
    outcome = "completed"
    try:
        store.put_stream("large", large())
    except StoreError as error:
        assert str(error).startswith(f"s3://{bucket}/x/large: ")
        killing.wait()
        assert "Contents" not in direct.list_objects_v2(Bucket=bucket)
        store.put_stream("large", large())
        outcome = "failed, rerun completed"
    assert killing.killed_in
    same = direct.get_object(Bucket=bucket, Key="x/large")["Body"].read() == b"".join(large())
    report(*killing.TABLE, ("PUT part 3 of a 40 MB upload", len(killing.killed_in), outcome, int(not same)))
    assert same


def test_an_abandoned_upload_is_aborted(proxy, bucket, direct):
    def broken():
        yield bytes(20 << 20)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        S3Store(f"s3://{bucket}/x").put_stream("large", broken())
    assert "Uploads" not in direct.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in direct.list_objects_v2(Bucket=bucket)


def test_abandoned_uploads_are_found_over_pages(proxy, bucket, direct, monkeypatch):
    monkeypatch.setattr(s3_unfinished, "_PAGE", 2)
    left = {
        (f"{i // 2}", direct.create_multipart_upload(Bucket=bucket, Key=f"x/{i // 2}")["UploadId"]) for i in range(5)
    }
    direct.create_multipart_upload(Bucket=bucket, Key="y")
    store = S3Store(f"s3://{bucket}/x")
    proxy.requests.clear()
    found = list(store.uploads())
    assert len(found) == 5
    assert {(upload.key, upload.id) for upload in found} == left
    assert len(proxy.requests) == 3
    assert all(abs(upload.started - time.time()) < 3600 for upload in found)
    for upload in found:
        store.abort(upload)
    assert list(store.uploads()) == []
    assert len(direct.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
