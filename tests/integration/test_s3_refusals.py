"""What a server refuses: one clear line that names the place, and nothing written."""

import datetime

import botocore.auth
import pytest
from synthetic import small_model

TABLE = ("refusals", ("what was wrong", "what was said"))


@pytest.fixture
def source(upload):
    return upload("source", small_model())


@pytest.fixture
def refused(refusal, report, direct, bucket):
    """refused(what, *arguments): the line that a command fails with; the bucket holds nothing new."""

    def run(what, *arguments):
        before = direct.list_objects_v2(Bucket=bucket).get("Contents", [])
        line = refusal(*arguments, "--preset", "fast")
        assert direct.list_objects_v2(Bucket=bucket).get("Contents", []) == before
        report(*TABLE, (what, line.removeprefix("nwc: error: ")))
        return line

    return run


def test_wrong_secret(source, proxy, refused, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-printed")
    line = refused("wrong secret", "compress", source, f"{source}.nwc")
    assert source in line
    assert "the secret access key is wrong" in line
    assert "not-to-be-printed" not in line


def test_unknown_access_key(source, proxy, refused, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    assert "the server does not know the access key" in refused("unknown key", "compress", source, f"{source}.nwc")


def test_no_credentials(source, proxy, refused, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials found" in refused("no credentials", "compress", source, f"{source}.nwc")


def test_missing_bucket(source, proxy, refused):
    for what, arguments in (
        ("missing source bucket", ("s3://no-such-bucket/a", f"{source}.nwc")),
        ("missing destination bucket", (source, "s3://no-such-bucket/a")),
    ):
        line = refused(what, "compress", *arguments)
        assert "s3://no-such-bucket" in line
        assert "no such bucket" in line


def test_missing_source(source, proxy, refused):
    line = refused("nothing at the source", "compress", f"{source}-nothing", f"{source}.nwc")
    assert line.startswith(f"nwc: error: {source}-nothing: no such")


def test_no_permission(source, proxy, refused, monkeypatch, stranger):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stranger.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stranger.secret_key)
    line = refused("no permission to read the source", "compress", source, f"{source}.nwc")
    assert source in line
    assert "access denied" in line


def test_permission_to_read_but_not_to_write(source, proxy, refused, monkeypatch, stranger, user, bucket, s3_client):
    """The destination is somebody else's; different credentials for the two."""
    theirs = s3_client(stranger)
    theirs.create_bucket(Bucket="strangers-own")
    line = refused("no permission to write", "compress", source, "s3://strangers-own/model.nwc")
    assert "s3://strangers-own/model.nwc" in line
    assert "access denied" in line
    assert "Contents" not in theirs.list_objects_v2(Bucket="strangers-own")


def test_clock_skew(source, proxy, refusal, monkeypatch, report, contents):
    """An hour: servers allow a quarter of one."""

    right, skew = botocore.auth.get_current_datetime, datetime.timedelta(hours=1)
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *args, **options: right(*args, **options) - skew)
        line = refusal("compress", source, f"{source}.nwc")
    assert "the clocks of this machine and of the server differ by too much" in line
    assert contents("source.nwc") == {}
    report(*TABLE, ("clock an hour late", line.removeprefix("nwc: error: ")))


def test_nobody_at_the_endpoint(source, proxy, refused, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NWC_S3_MAX_ATTEMPTS", "2")
    line = refused("nobody at the endpoint", "compress", source, f"{source}.nwc")
    assert "nobody answers at http://127.0.0.1:9" in line
