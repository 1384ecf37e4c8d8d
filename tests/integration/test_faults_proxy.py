"""The proxy does what it says: if it did nothing, every test of what nwc does about faults would pass."""

import http.client
import time
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ResponseStreamingError
from ceph import CephGateway
from faults_proxy import Fault
from urllib3.exceptions import IncompleteRead, ProtocolError

DATA = bytes(range(256)) * 400


@pytest.fixture
def client(proxy, s3_client, user, bucket):
    client = s3_client(user, proxy.endpoint)
    client.put_object(Bucket=bucket, Key="a", Body=DATA)
    proxy.clear()
    return client


def read(client, bucket, **options):
    return client.get_object(Bucket=bucket, Key="a", **options)["Body"].read()


def test_it_is_transparent_and_counts(client, bucket, proxy):
    assert read(client, bucket) == DATA
    assert read(client, bucket, Range="bytes=10-19") == DATA[10:20]
    assert client.head_object(Bucket=bucket, Key="a")["ContentLength"] == len(DATA)
    client.put_object(Bucket=bucket, Key="b c/ü+%20", Body=DATA)
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a", "b c/ü+%20"]
    client.delete_object(Bucket=bucket, Key="b c/ü+%20")
    seen = [(r.method, r.range, r.status, r.received, r.sent, r.fault) for r in proxy.requests]
    listing = proxy.requests[4].sent
    assert seen == [
        ("GET", None, 200, 0, len(DATA), None),
        ("GET", "bytes=10-19", 206, 0, 10, None),
        ("HEAD", None, 200, 0, 0, None),
        ("PUT", None, 200, len(DATA), 0, None),
        ("GET", None, 200, 0, listing, None),
        ("DELETE", None, 204, 0, 0, None),
    ]
    assert listing > 100


@pytest.mark.parametrize("kind", ["500 InternalError", "503 SlowDown"])
def test_error_answers(client, bucket, proxy, kind):
    with proxy.inject(Fault(kind)), pytest.raises(ClientError) as caught:
        read(client, bucket)
    status, code = kind.split()
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == int(status)
    assert read(client, bucket) == DATA
    assert [request.fault for request in proxy.requests] == [kind, None]


@pytest.mark.parametrize(("kind", "done"), [("reset before the request", False), ("reset after the request", True)])
def test_resets_before_and_after_the_server_acts(client, bucket, proxy, direct, kind, done):
    with proxy.inject(Fault(kind)), pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="new", Body=b"x")
    assert [entry["Key"] for entry in direct.list_objects_v2(Bucket=bucket)["Contents"]] == ["a", "new"][: 1 + done]


def test_a_body_that_is_cut_by_a_reset(client, bucket, proxy):
    with proxy.inject(Fault("reset within the body")), pytest.raises((ResponseStreamingError, ProtocolError)) as caught:
        read(client, bucket)
    assert "reset" in str(caught.value)
    assert proxy.harmed()[0].sent == len(DATA) // 2


def test_a_body_that_ends_early(client, bucket, proxy):
    with proxy.inject(Fault("truncated body")), pytest.raises((ResponseStreamingError, IncompleteRead)) as caught:
        read(client, bucket)
    assert f"{len(DATA) // 2} bytes read" in str(caught.value)


def test_slow_and_late(client, bucket, proxy):
    for fault in (Fault("delay", seconds=0.3), Fault("slow", rate=len(DATA) / 0.3)):
        with proxy.inject(fault):
            started = time.monotonic()
            assert read(client, bucket) == DATA
            assert time.monotonic() - started >= 0.25
    with proxy.inject(Fault("slow", rate=len(DATA) / 0.3)):
        started = time.monotonic()
        client.put_object(Bucket=bucket, Key="b", Body=DATA)
        assert time.monotonic() - started >= 0.25
    assert [request.fault for request in proxy.requests] == ["delay", "slow", "slow"]


def test_only_the_chosen_requests_are_harmed(client, bucket, proxy):
    with proxy.inject(Fault("500 InternalError", methods=("PUT",), path="/b", times=2)):
        read(client, bucket)
        client.put_object(Bucket=bucket, Key="c", Body=b"x")
        for _ in range(2):
            with pytest.raises(ClientError):
                client.put_object(Bucket=bucket, Key="b", Body=b"x")
        client.put_object(Bucket=bucket, Key="b", Body=b"x")
    assert len(proxy.harmed()) == 2


def test_chance_is_repeatable(client, bucket, proxy):
    def harmed(seed):
        proxy.clear()
        with proxy.inject(Fault("500 InternalError", probability=0.3), seed=seed):
            for _ in range(60):
                with suppress(ClientError):
                    client.head_object(Bucket=bucket, Key="a")
        return [bool(request.fault) for request in proxy.requests]

    first = harmed(1)
    assert 6 <= sum(first) <= 30
    assert harmed(1) == first
    assert harmed(2) != first


def test_a_dead_server_looks_like_one(client, bucket, proxy, ceph):
    ceph.kill()
    try:
        with pytest.raises(ConnectionClosedError):
            read(client, bucket)
    finally:
        ceph.restart()
    assert read(client, bucket) == DATA


def test_the_gateway_is_a_real_one(bucket, s3_client, user, stranger, direct):
    """What the tests need of it: it checks signatures and rights, and honours If-None-Match."""
    wrong = s3_client(type(user)(user.name, user.access_key, "wrong"))
    for client, code in ((wrong, "SignatureDoesNotMatch"), (s3_client(stranger), "AccessDenied")):
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=bucket, Key="a", Body=b"x")
        assert caught.value.response["Error"]["Code"] == code
    direct.put_object(Bucket=bucket, Key="a", Body=b"x", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        direct.put_object(Bucket=bucket, Key="a", Body=b"y", IfNoneMatch="*")
    assert caught.value.response["Error"]["Code"] == "PreconditionFailed"


def test_stopping_leaves_no_process(ceph, tmp_path_factory):
    other = CephGateway(tmp_path_factory.mktemp("c"))
    other.start()
    port = other.port
    http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
    other.stop()
    other.stop()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
