"""The S3 store against an S3 server: the contract, large objects, listings, what a request costs."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from s3_server import Fault, Proxy, new_bucket, raw_client

from nwc_core.errors import AlreadyExistsError, StoreError, UsageError
from nwc_core.store import ObjectInfo, open_store
from nwc_infra.stores import s3_conditional, s3_upload
from nwc_infra.stores.conformance import StoreConformance
from nwc_infra.stores.s3 import S3Store
from nwc_infra.stores.s3_options import S3Options
from nwc_infra.stores.s3_upload import part_nbytes

MIB = 1 << 20


@pytest.fixture
def store(server: str) -> S3Store:
    return S3Store(f"s3://{new_bucket(server)}/some/prefix", options=S3Options(endpoint_url=server))


@pytest.fixture
def seen(server: str, proxy: Proxy) -> S3Store:
    """A store whose requests the proxy sees."""
    return S3Store(f"s3://{new_bucket(server)}/p", options=S3Options(endpoint_url=proxy.url))


class TestS3Store(StoreConformance):
    @pytest.fixture
    def store(self, server: str) -> S3Store:
        # moto answers 500 to parts of an aborted upload, which would be tried ten times.
        options = S3Options(endpoint_url=server, max_attempts=2)
        return S3Store(f"s3://{new_bucket(server)}/some/prefix/", options=options)


def test_a_whole_bucket_is_a_store(server):
    store = S3Store(f"s3://{new_bucket(server)}/", options=S3Options(endpoint_url=server))
    store.put("a/b", b"x")
    store.create("c", b"yy")
    assert list(store.list()) == [ObjectInfo("a/b", 1), ObjectInfo("c", 2)]
    assert store.uri == f"s3://{store.bucket.name}"
    assert store.get("a/b") == b"x"


def uploads(store: S3Store) -> list[object]:
    return store.bucket.call("list_multipart_uploads").get("Uploads", [])


def test_the_entry_point_is_there(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    store = open_store(f"s3://{new_bucket(server)}/a/")
    store.put("b", b"x")
    assert isinstance(store, S3Store)
    assert store.uri.endswith("/a")
    assert store.get("b") == b"x"


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///key", "s3://a", "s3://bucket/a//b", "s3://bucket/../x", "s3://me:secret@bucket/x", "x"]
)
def test_what_is_no_location_is_refused(uri):
    with pytest.raises(UsageError):
        S3Store(uri)


def test_a_large_stream_goes_up_in_parts(seen, proxy):
    chunks = [bytes([i]) * (3 * MIB + i) for i in range(7)]
    seen.put_stream("large", iter(chunks))
    assert seen.get("large") == b"".join(chunks)
    assert proxy.counts() == {"POST": 2, "PUT": 3, "GET": 1}
    assert raw_client(proxy.url).head_object(Bucket=seen.bucket.name, Key="p/large")["ETag"].endswith('-3"')


@pytest.mark.parametrize("size", [0, 1, 8 * MIB])
def test_a_small_stream_is_one_put(seen, proxy, size):
    seen.put_stream("small", [bytes(size // 2), bytes(size - size // 2)] if size else [])
    assert proxy.counts() == {"PUT": 1}
    assert seen.size("small") == size


def test_a_large_put_goes_up_in_parts(seen, proxy, monkeypatch):
    monkeypatch.setattr("nwc_infra.stores.s3.MAX_PUT_NBYTES", 10 * MIB)
    seen.put("large", memoryview(bytes(17 * MIB)))
    assert proxy.counts() == {"POST": 2, "PUT": 3}
    assert seen.size("large") == 17 * MIB


def test_any_size_fits_into_ten_thousand_parts():
    assert part_nbytes(1) == part_nbytes(1000) == 8 * MIB
    assert sum(part_nbytes(number) for number in range(1, 10_001)) > 5 << 40
    assert max(part_nbytes(number) for number in range(1, 10_001)) <= 5 << 30


def test_a_large_stream_that_breaks_leaves_nothing(store):
    def broken():
        yield bytes(30 * MIB)
        raise ZeroDivisionError

    store.put("a", b"old")
    with pytest.raises(ZeroDivisionError):
        store.put_stream("a", broken())
    assert store.get("a") == b"old"
    assert uploads(store) == []


def test_a_large_stream_that_the_server_refuses_leaves_nothing(seen, proxy):
    proxy.faults.append(Fault(lambda r: "partNumber=2" in r.path, instead=(403, "AccessDenied")))
    with pytest.raises(StoreError, match="access denied"):
        seen.put_stream("a", [bytes(30 * MIB)])
    assert list(seen.list()) == []
    assert uploads(seen) == []


def test_a_completion_whose_answer_is_lost_is_noticed(seen, proxy):
    def completes(request):
        return request.method == "POST" and "uploadId" in request.path

    proxy.faults.append(Fault(completes, times=1, answer="lost"))
    proxy.faults.append(Fault(completes, instead=(404, "NoSuchUpload")))
    seen.put_stream("a", [bytes(17 * MIB)])
    assert proxy.faults[1].hits == 1
    assert seen.size("a") == 17 * MIB


def test_memory_holds_few_parts(store, monkeypatch):
    held: list[int] = []
    monkeypatch.setattr(s3_upload, "MIN_PART_NBYTES", 5 * MIB)
    started, ended = [0], [0]
    real = type(store.bucket).call

    def call(self, operation, *args, **kwargs):
        result = real(self, operation, *args, **kwargs)
        ended[0] += operation == "upload_part"
        return result

    monkeypatch.setattr(type(store.bucket), "call", call)

    def chunks():
        for _ in range(20):
            started[0] += 1
            held.append(started[0] - ended[0])
            yield bytes(5 * MIB)

    store.put_stream("a", chunks())
    assert max(held) <= s3_upload.N_IN_FLIGHT + 3  # one being made, and two looked at first


def test_listing_goes_over_pages_in_key_order(server, seen, proxy, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    keys = sorted([f"{c}{i:04}" for i in range(10) for c in ("x/", "权", "\U0001f600")] + ["\uffff", "\ue000"])
    client = raw_client(server)
    for key in keys:
        client.put_object(Bucket=seen.bucket.name, Key=f"p/{key}", Body=b"")
    assert [info.key for info in seen.list()] == keys
    assert proxy.counts() == {"GET": 4}


def test_markers_of_folders_are_no_objects_and_strange_keys_are_listed(server, store):
    client = raw_client(server)
    for key, body in (("", b""), ("folder/", b""), ("full/", b"x"), ("a//b", b"x"), ("a/b", b"x")):
        client.put_object(Bucket=store.bucket.name, Key=f"{store.root}{key}", Body=body)
    client.put_object(Bucket=store.bucket.name, Key="some/prefixed", Body=b"not ours")
    assert list(store.list()) == [ObjectInfo("a//b", 1), ObjectInfo("a/b", 1), ObjectInfo("full/", 1)]
    with pytest.raises(StoreError, match="empty part"):
        store.get("a//b")


def test_what_each_operation_costs(seen, proxy):
    def cost(call) -> dict[str, int]:
        proxy.log.clear()
        call()
        return proxy.counts()

    assert cost(lambda: seen.put("a", bytes(1000))) == {"PUT": 1}
    assert cost(lambda: seen.size("a")) == {"HEAD": 1}
    assert cost(lambda: seen.get("a")) == {"GET": 1}
    assert cost(lambda: seen.get_range("a", 10, 20)) == {"GET": 1}
    assert (proxy.log[0].range, proxy.log[0].sent) == ("bytes=10-19", 10)
    assert cost(lambda: list(seen.list())) == {"GET": 1}
    assert cost(lambda: seen.create("b", b"x")) == {"PUT": 3, "DELETE": 1}  # with the proof
    assert cost(lambda: seen.create("c", b"x")) == {"PUT": 1}
    with pytest.raises(AlreadyExistsError):
        cost(lambda: seen.create("c", b"x"))
    assert proxy.counts() == {"PUT": 1, "HEAD": 1}
    assert cost(lambda: seen.delete("a")) == {"DELETE": 1}


def test_a_server_that_ignores_conditions_is_found_out_before_it_does_harm(server, seen, proxy):
    seen.put("manifest.json", b"precious")
    proxy.faults.append(Fault(lambda r: True, without_header="if-none-match"))
    with pytest.raises(StoreError, match="ignores conditional writes") as caught:
        seen.create("manifest.json", b"evil")
    assert proxy.url in str(caught.value)
    assert not isinstance(caught.value, AlreadyExistsError)
    assert seen.get("manifest.json") == b"precious"
    assert [info.key for info in open_all(server, seen)] == ["p/manifest.json"]  # no probe is left


def open_all(server: str, store: S3Store) -> list[ObjectInfo]:
    return list(S3Store(f"s3://{store.bucket.name}", options=S3Options(endpoint_url=server)).list())


@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument"])
def test_a_server_that_refuses_conditions_is_said_so(seen, proxy, code):
    proxy.faults.append(Fault(lambda r: "if-none-match" in r.headers, instead=(501, code)))
    with pytest.raises(StoreError, match="refuses conditional writes"):
        seen.create("a", b"x")


def test_conditions_may_be_done_without_on_request(server, proxy):
    proxy.faults.append(Fault(lambda r: "if-none-match" in r.headers, instead=(501, "NotImplemented")))
    options = S3Options(endpoint_url=proxy.url, allow_unconditional=True)
    store = S3Store(f"s3://{new_bucket(server)}", options=options)
    store.create("a", b"first")
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"second")
    assert store.get("a") == b"first"


def test_a_creation_whose_answer_is_lost_is_a_success(seen, proxy):
    seen.create("proof", b"")
    proxy.faults.append(Fault(lambda r: r.method == "PUT", times=1, answer="lost"))
    seen.create("a", b"mine")
    assert proxy.faults[0].hits == 1
    with pytest.raises(AlreadyExistsError):
        seen.create("a", b"yours")
    assert seen.get("a") == b"mine"


def test_a_contended_creation_is_tried_again(seen, proxy):
    seen.create("proof", b"")
    proxy.faults.append(Fault(lambda r: r.method == "PUT", times=2, instead=(409, "ConditionalRequestConflict")))
    seen.create("a", b"x")
    assert seen.get("a") == b"x"


def test_the_probe_is_no_key_and_is_not_listed(store):
    probe = f"{s3_conditional.PROBE_PREFIX}x"
    raw_client(store.bucket.endpoint).put_object(Bucket=store.bucket.name, Key=f"{store.root}{probe}", Body=b"")
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="own use"):
        store.get(probe)


def test_another_process_has_the_options_and_no_secret(store):
    store.put("a", b"from here")
    pickled = pickle.dumps(store)
    assert b"AWS" not in pickled
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).get('a').decode())"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"from here\n"
