"""Where the S3 store's settings come from, and that they reach the server."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from s3_server import Fault, Proxy, new_bucket, raw_client

from nwc_core.errors import PermissionDeniedError, UsageError
from nwc_core.store import open_store
from nwc_infra.stores.s3 import S3Store
from nwc_infra.stores.s3_options import S3Options, is_aws, options_from_environment


def access_key(proxy: Proxy) -> str:
    """The key that the last request was signed with."""
    return proxy.log[-1].headers["authorization"].split("Credential=")[1].split("/")[0]


def test_the_role_decides_then_the_general_setting_then_boto3():
    environment = {
        "NWC_SOURCE_PROFILE": "reader",
        "NWC_DESTINATION_SSE_KMS_KEY_ID": "alias/weights",
        "NWC_DESTINATION_MAX_ATTEMPTS": "3",
        "NWC_DESTINATION_ALLOW_UNCONDITIONAL": "true",
        "NWC_S3_MAX_ATTEMPTS": "9",
        "NWC_SOURCE_REQUESTS_PER_SECOND": "2.5",
        "NWC_S3_STORAGE_CLASS": "",
        "AWS_ENDPOINT_URL": "http://general:1",
        "AWS_REGION": "eu-north-1",
        "HOME": "/",
    }
    source = options_from_environment("source", environment)
    assert source == S3Options(profile="reader", max_attempts=9, requests_per_second=2.5)
    destination = options_from_environment("destination", environment)
    aws = {"endpoint_url": "http://general:1", "region": "eu-north-1"}
    assert destination == S3Options(**aws, sse_kms_key_id="alias/weights", max_attempts=3, allow_unconditional=True)
    assert options_from_environment(None, environment) == S3Options(**aws, max_attempts=9)


def test_endpoints_as_boto3_takes_them():
    environment = {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b", "AWS_DEFAULT_REGION": "r"}
    assert options_from_environment(None, environment) == S3Options(endpoint_url="http://b", region="r")
    environment["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "true"
    assert options_from_environment(None, environment).endpoint_url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NWC_SOURCE_MAX_ATTEMPTS", "0"),
        ("NWC_SOURCE_MAX_ATTEMPTS", "many"),
        ("NWC_S3_SSE", "rot13"),
        ("NWC_SOURCE_ENDPOINT_URL", "localhost:9000"),
        ("NWC_SOURCE_ENDPOINT_URL", "http://me:secret@host"),
        ("NWC_S3_ADDRESSING_STYLE", "dns"),
        ("NWC_S3_READ_TIMEOUT", "nan"),
        ("NWC_S3_REQUESTS_PER_SECOND", "0"),
        ("NWC_S3_REQUESTS_PER_SECOND", "inf"),
        ("NWC_S3_REQUESTS_PER_SECOND", "nan"),
        ("NWC_SOURCE_PROFIL", "x"),
    ],
)
def test_what_cannot_be_right_is_named(variable, value):
    with pytest.raises(UsageError, match=variable) as caught:
        options_from_environment("source", {variable: value})
    assert "secret" not in str(caught.value)


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match="sse_kms_key_id"):
        options_from_environment(None, {"NWC_S3_SSE": "AES256", "NWC_S3_SSE_KMS_KEY_ID": "k"})
    with pytest.raises(UsageError, match="profile"):
        options_from_environment("source", {"NWC_SOURCE_PROFILE": "p", "NWC_SOURCE_ACCESS_KEY_ID": "k"})


def test_credentials_of_the_role_beat_general_ones_of_the_other_kind():
    environment = {"NWC_SOURCE_PROFILE": "p", "NWC_S3_ACCESS_KEY_ID": "k"}
    assert options_from_environment("source", environment) == S3Options(profile="p")
    assert options_from_environment("destination", environment) == S3Options(key_variables="NWC_S3_")
    environment = {"NWC_S3_PROFILE": "p", "NWC_SOURCE_ACCESS_KEY_ID": "k"}
    assert options_from_environment("source", environment) == S3Options(key_variables="NWC_SOURCE_")


@pytest.mark.parametrize(
    ("url", "is_it"),
    [
        (None, True),
        ("https://s3.eu-west-1.amazonaws.com", True),
        ("https://b.vpce-1.s3.us-east-1.vpce.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://evilamazonaws.com", False),
        ("https://amazonaws.com.evil.org", False),
        ("http://127.0.0.1:9000/path", False),
    ],
)
def test_who_is_aws(url, is_it):
    assert is_aws(url) is is_it


def test_source_and_destination_use_different_keys(server, proxy, monkeypatch):
    bucket = new_bucket(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("NWC_SOURCE_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("NWC_SOURCE_SECRET_ACCESS_KEY", "hush-hush")
    source, destination = open_store(f"s3://{bucket}", "source"), open_store(f"s3://{bucket}", "destination")
    destination.put("a", b"x")
    assert access_key(proxy) == "test"
    assert source.get("a") == b"x"
    assert access_key(proxy) == "reader"
    pickled = pickle.dumps(source)
    assert b"hush" not in pickled
    monkeypatch.delenv("NWC_SOURCE_SECRET_ACCESS_KEY")  # as on a machine of the cluster that was not told
    with pytest.raises(PermissionDeniedError, match="NWC_SOURCE_SECRET_ACCESS_KEY is not set in this process"):
        pickle.loads(pickled).get("a")


def test_profiles_are_named_not_copied(server, proxy, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text("[writer]\naws_access_key_id=of-profile\naws_secret_access_key=hush-hush\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    store = S3Store(f"s3://{new_bucket(server)}", options=S3Options(endpoint_url=proxy.url, profile="writer"))
    pickle.loads(pickle.dumps(store)).put("a", b"x")
    assert access_key(proxy) == "of-profile"
    assert b"hush" not in pickle.dumps(store)


def test_a_role_is_assumed_once_and_used(server, proxy):
    options = S3Options(endpoint_url=proxy.url, role_arn="arn:aws:iam::123456789012:role/writer")
    store = S3Store(f"s3://{new_bucket(server)}", options=options)
    store.put("a", b"x")
    assert store.get("a") == b"x"
    assert [request.path.split("/")[1][:6] for request in proxy.log] == ["", "bucket", "bucket"]  # one STS, two S3
    assert access_key(proxy).startswith("ASIA")
    assert proxy.log[-1].headers["x-amz-security-token"]


def test_a_role_that_may_not_be_assumed(server, proxy):
    proxy.faults.append(Fault(lambda r: r.method == "POST", instead=(403, "AccessDenied")))
    options = S3Options(endpoint_url=proxy.url, role_arn="arn:aws:iam::123456789012:role/nope")
    with pytest.raises(PermissionDeniedError, match="sts:AssumeRole"):
        S3Store(f"s3://{new_bucket(server)}", options=options).get("a")


def test_a_role_without_anybody_to_assume_it(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    options = S3Options(endpoint_url=server, role_arn="arn:aws:iam::123456789012:role/x")
    with pytest.raises(PermissionDeniedError, match="no credentials found"):
        S3Store("s3://bucket", options=options).get("a")


def test_boto3_is_imported_only_when_it_is_needed():
    code = "import nwc_infra.stores.s3 as s, sys; s.S3Store('s3://bucket'); sys.exit('botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_encryption_and_storage_class_go_with_every_write(server, proxy, monkeypatch):
    options = S3Options(endpoint_url=proxy.url, sse_kms_key_id="my-key", storage_class="STANDARD_IA")
    store = S3Store(f"s3://{new_bucket(server)}", options=options)
    store.put("put", b"x")
    store.create("create", b"x")
    store.put_stream("small", [b"x"])
    store.put_stream("large", [bytes(9 << 20)])
    for key in ("put", "create", "small", "large"):
        head = raw_client(server).head_object(Bucket=store.bucket.name, Key=key)
        assert head["ServerSideEncryption"] == "aws:kms", key
        assert head["SSEKMSKeyId"] == "my-key", key
        assert head["StorageClass"] == "STANDARD_IA", key


@pytest.mark.parametrize(("checksum", "sent"), [("when_required", False), ("when_supported", True)])
def test_checksums_only_on_request(server, proxy, checksum, sent):
    store = S3Store(f"s3://{new_bucket(server)}", options=S3Options(endpoint_url=proxy.url, checksum=checksum))
    store.put("a", b"x")
    assert any(name.startswith("x-amz-checksum") for name in proxy.log[0].headers) is sent


def test_other_servers_get_the_bucket_in_the_path(server, proxy):
    url = proxy.url.replace("127.0.0.1", "localhost")
    bucket = new_bucket(server)
    S3Store(f"s3://{bucket}", options=S3Options(endpoint_url=url)).put("a", b"x")
    assert proxy.log[0].path == f"/{bucket}/a"
