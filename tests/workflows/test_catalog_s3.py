"""A catalog on S3: from bucket to bucket, its state read back, and what killed writers left there."""

from __future__ import annotations

import json

import pytest
from catalogs import make_models, write_catalog
from checkpoints import contents
from s3_server import Proxy, new_bucket, raw_client, s3_server

from nwc_workflows.catalog.rubbish import is_our_upload


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture
def proxy(server, monkeypatch):
    """Between this test with its workers and the server."""
    proxy = Proxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


def test_from_bucket_to_bucket(proxy, server, nwc, tmp_path, ray_cluster):
    source, results = new_bucket(server), new_bucket(server)
    for key, data in contents(make_models(tmp_path / "models")).items():
        raw_client(server).put_object(Bucket=source, Key=f"models/{key}", Body=data)
    path = write_catalog(tmp_path / "c.yaml", f"s3://{source}/models", f"s3://{results}/small")
    code, out, err = nwc("catalog", "run", path, "--output", "json")
    assert code == 3, err
    assert (json.loads(out)["done"], json.loads(out)["failed"]) == (3, 1)
    assert "bad: failed: s3://" in err
    for name in ("a", "b/deep", "c"):
        place = f"s3://{results}/small/{name}"
        assert nwc("verify", place, "--source", f"s3://{source}/models/{name}")[0] == 0

    proxy.log.clear()
    code, out, _ = nwc("catalog", "run", path, "--output", "json")
    assert json.loads(out)["done_already"] == 3
    read = [request for request in proxy.log if request.method == "GET" and request.path.endswith(".safetensors")]
    assert all("/bad/" in request.path for request in read)
    assert not [request for request in proxy.log if request.method == "PUT" and "/bad/" not in request.path]

    proxy.log.clear()
    code, out, _ = nwc("catalog", "status", f"s3://{results}/small")
    assert (code, out.splitlines()[0]) == (0, "4 models: 3 done, 1 failed")
    listings = [request for request in proxy.log if "list-type" in request.path]
    assert (len(listings), len(proxy.log)) == (1, 1 + 4)

    client = raw_client(server)
    ours, foreign = f"small/a/payload-{'0' * 32}.safetensors", "small/a/video.mp4"
    assert [is_our_upload(ours), is_our_upload(foreign)] == [True, False]
    for key in (ours, foreign):
        client.create_multipart_upload(Bucket=results, Key=key)
    before = {entry["Key"] for entry in client.list_objects_v2(Bucket=results)["Contents"]}
    code, out, err = nwc("catalog", "gc", path, "--delete")
    assert code == 0, err
    assert "0 unfinished uploads deleted" in out  # all of it is new
    code, out, err = nwc("catalog", "gc", path, "--delete", "--older-than", "0", "--output", "json")
    assert code == 0, err
    assert json.loads(out)["places"] == [
        {"place": "a", "committed": True, "objects": [], "uploads": [ours.removeprefix("small/")], "bytes": 0}
    ]
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=results)["Uploads"]] == [foreign]
    assert {entry["Key"] for entry in client.list_objects_v2(Bucket=results)["Contents"]} == before
