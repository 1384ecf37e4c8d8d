"""Checkpoints and artifacts on S3: the same bytes as on a disk, and no request for more than is needed."""

from __future__ import annotations

import json

import pytest
from checkpoints import BITS, SHARDS, all_tensors, contents, make_model, normal, same_bits, save
from s3_server import Fault, Proxy, new_bucket, raw_client, s3_server

import nwc_core
from nwc_core.errors import FormatError, NotFoundError, PermissionDeniedError, StoreError
from nwc_infra.stores.s3 import S3Store
from nwc_workflows import blocks
from nwc_workflows.sources import open_checkpoint, read_bytes, to_tensor


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


@pytest.fixture(scope="module")
def on_s3(server, tmp_path_factory):
    """URI of a copy of the model's folder, weights of 4 MB beside it."""
    bucket = new_bucket(server)
    folder = make_model(tmp_path_factory.mktemp("model"))
    save(folder.parent / "single" / "big.safetensors", {"big": normal(1000, 1000)})
    for root, prefix in ((folder, "models/one"), (folder.parent / "single", "models/single")):
        for key, data in contents(root).items():
            raw_client(server).put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)
    return f"s3://{bucket}/models"


def objects(server, bucket):
    store = S3Store(
        f"s3://{bucket}", options=S3Store("s3://any").bucket.options.model_copy(update={"endpoint_url": server})
    )
    return {info.key: store.get(info.key) for info in store.list()}


def whole_reads(proxy):
    """Weight files that were asked for without a range."""
    return [r.path for r in proxy.log if r.method == "GET" and r.path.endswith(".safetensors") and not r.range]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_opens_by_headers_alone(proxy, on_s3, slash):
    checkpoint = open_checkpoint(f"{on_s3}/one{slash}")
    assert {tensor.name for tensor in checkpoint.tensors} == set(all_tensors())
    assert {file.path for file in checkpoint.weight_files} == set(SHARDS)
    assert whole_reads(proxy) == []
    by_shard = [[r for r in proxy.log if r.method == "GET" and r.path.endswith(name)] for name in SHARDS]
    assert [len(requests) for requests in by_shard] == [2, 2]  # length of the header, header
    assert sum(request.sent for requests in by_shard for request in requests) < 20_000


def test_a_single_object_opens_by_its_header_alone(proxy, on_s3):
    checkpoint = open_checkpoint(f"{on_s3}/single/big.safetensors")
    assert sum(request.sent for request in proxy.log) < 5_000
    (tensor,) = checkpoint.tensors
    proxy.log.clear()
    data = read_bytes(checkpoint, tensor, 1000, 3000)
    assert same_bits(to_tensor(data, tensor.dtype, (2, 1000)), normal(1000, 1000)[1:3])
    assert [request.sent for request in proxy.log] == [8000]


def test_a_folder_of_one_file_opens(proxy, on_s3):
    assert [file.path for file in open_checkpoint(f"{on_s3}/single").weight_files] == ["big.safetensors"]
    assert whole_reads(proxy) == []


def test_what_is_not_there_or_no_checkpoint(proxy, on_s3):
    for uri in (f"{on_s3}/nothing", f"{on_s3}/on", f"{on_s3}/single/big"):
        with pytest.raises(NotFoundError):
            open_checkpoint(uri)
    with pytest.raises(StoreError, match="no such bucket"):
        open_checkpoint("s3://no-such-bucket-at-all/model")
    with pytest.raises(FormatError):
        open_checkpoint(f"{on_s3}/one/vocab.txt")


def test_from_s3_to_s3_gives_the_bytes_of_a_local_run(proxy, server, on_s3, artifact, nwc, monkeypatch):
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 15)
    bucket = new_bucket(server)
    code, out, err = nwc("compress", f"{on_s3}/one/", f"s3://{bucket}/out/", "--bits", BITS, "--output", "json")
    assert code == 0, err
    assert json.loads(out)["destination"] == f"s3://{bucket}/out"
    assert whole_reads(proxy) == []
    assert objects(server, bucket) == {f"out/{key}": data for key, data in contents(artifact).items()}

    proxy.log.clear()
    with nwc_core.open(f"s3://{bucket}/out") as opened, nwc_core.open(artifact) as local:
        assert same_bits(opened.get_tensor("experts"), local.get_tensor("experts"))
        assert len(proxy.log) <= 3 + len(local.index.blocks("experts"))  # the codec may be known already
        for name in all_tensors():
            assert same_bits(opened.get_tensor(name), local.get_tensor(name)), name

    assert nwc("compress", f"{on_s3}/one", f"s3://{bucket}/out", "--bits", BITS)[0] == 0  # is there already
    assert nwc("verify", f"s3://{bucket}/out", "--source", f"{on_s3}/one")[0] == 0
    assert nwc("decompress", f"s3://{bucket}/out", f"s3://{bucket}/back")[0] == 0
    back = open_checkpoint(f"s3://{bucket}/back")
    assert {tensor.name for tensor in back.tensors} == set(all_tensors())

    proxy.log.clear()
    code, out, err = nwc("report", f"s3://{bucket}/out", "--out", f"s3://{bucket}/pages/report.html")
    assert (code, out.split(":")[0]) == (0, "s3"), err
    read = [request.path.rpartition("/")[2].split("-")[0] for request in proxy.log if request.method == "GET"]
    assert sorted(read) == ["index", "manifest.json"]
    assert b"experts" in objects(server, bucket)["pages/report.html"]
    assert nwc("report", f"s3://{bucket}/out", "--out", f"s3://{bucket}/pages/report.html")[0] == 1  # is there already


def test_workers_never_use_other_keys_than_the_driver_was_told_of(proxy, server, on_s3, nwc, monkeypatch):
    """The cluster was started without the variable that the driver has."""
    monkeypatch.setenv("NWC_DESTINATION_ACCESS_KEY_ID", "writer")
    monkeypatch.setenv("NWC_DESTINATION_SECRET_ACCESS_KEY", "hush-hush")
    bucket = new_bucket(server)
    code, _, err = nwc("compress", f"{on_s3}/single", f"s3://{bucket}/out")
    assert code != 0
    assert "NWC_DESTINATION_ACCESS_KEY_ID is not set in this process" in err
    assert all(
        key.startswith(("out/unfinished.json", "out/codec-")) for key in objects(server, bucket)
    )  # the driver's own


def test_a_server_that_ignores_conditions_gets_no_artifact(proxy, server, on_s3, nwc):
    proxy.faults.append(Fault(lambda r: True, without_header="if-none-match"))
    bucket = new_bucket(server)
    code, _, err = nwc("compress", f"{on_s3}/single", f"s3://{bucket}/out")
    assert code != 0
    assert "ignores conditional writes" in err
    assert "Traceback" not in err
    assert "out/manifest.json" not in objects(server, bucket)


def test_access_denied_names_the_permission(proxy, on_s3):
    proxy.faults.append(Fault(lambda r: "list-type" in r.path, instead=(403, "AccessDenied")))
    with pytest.raises(PermissionDeniedError, match="s3:ListBucket"):
        open_checkpoint(f"{on_s3}/one")
