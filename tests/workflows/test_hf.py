"""A model on the Hugging Face Hub as a source, from a server on loopback to an artifact."""

import pytest
from checkpoints import BITS, contents
from hub_server import LFS_NBYTES, Fault, Hub

import nwc_core

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def hub(monkeypatch, model):
    """A Hub with `model`; whoever asks needs no token."""
    hub = Hub()
    hub.push("org/model", {name: data for name, data in contents(model).items() if name != "pytorch_model.bin"})
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.close()


def test_a_model_is_compressed_where_it_is(nwc, hub, model, artifact, tmp_path, ray_cluster, small_tasks):
    code, _, err = nwc("compress", "hf://org/model", tmp_path / "out.nwc", "--bits", BITS)
    assert code == 0, err
    found, wanted = contents(tmp_path / "out.nwc"), contents(artifact)
    del found["manifest.json"], wanted["manifest.json"]  # which names the pickle that is not on this Hub
    assert found == wanted
    weights = [seen for seen in hub.log if seen.server == "files"]
    assert weights
    assert all("range" in seen.headers for seen in weights)
    code, out, _ = nwc("verify", tmp_path / "out.nwc", "--source", "hf://org/model")
    assert code == 0
    assert "agree with the source" in out


def test_one_file_of_a_model(nwc, hub, tmp_path, ray_cluster):
    code, _, err = nwc("plan", "hf://org/model@main/model-00002-of-00002.safetensors", "--bits", "20")
    assert code == 0, err
    code, _, err = nwc("plan", "hf://org/model/missing.safetensors")
    assert code == 1
    assert "hf://org/model/missing.safetensors: no such file or folder" in err


def test_an_artifact_is_read_from_there(hub, artifact):
    hub.push("org/model.nwc", contents(artifact), "v1")
    assert max(len(data) for data in contents(artifact).values()) > LFS_NBYTES
    with nwc_core.open("hf://org/model.nwc@v1") as opened, nwc_core.open(artifact) as local:
        assert opened.get_tensor("conv").equal(local.get_tensor("conv"))


def test_what_goes_wrong_is_one_line(failing, hub, tmp_path):
    assert "hf://org/other: no model org/other at http" in failing("plan", "hf://org/other")
    hub.faults = [Fault(lambda seen: True, status=401, headers={"X-Error-Code": "GatedRepo"})]
    line = failing("compress", "hf://org/model", tmp_path / "out")
    assert f"hf://org/model: the model is gated: accept its conditions at {hub.url}/org/model, then log in" in line
    assert not (tmp_path / "out").exists()


def test_the_hub_is_no_destination(failing, hub, artifact):
    line = failing("decompress", artifact, "hf://org/model")
    assert "already exists" in line
    hub.push("org/empty", {})
    line = failing("decompress", artifact, "hf://org/empty")
    assert "only read from; write to a folder or to s3://, and upload that (hf upload)" in line
