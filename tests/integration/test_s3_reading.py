"""What reading costs: requests and bytes as the server's side of the wire counts them."""

import json

import pytest
import torch
from synthetic import normal, safetensors

import nwc_core as nwc_package
from nwc_core.artifact import codec_cache
from nwc_core.store import open_store
from nwc_workflows.bench import reading
from nwc_workflows.blocks import cut_tensor
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan

N_TENSORS = 200
BLOCK = 1 << 18  # weights; the default is 8 million, which would make these tests slow
ROWS = 4096
TABLE = ("reading an artifact of 200 tensors", ("what", "requests", "bytes", "payload bytes", "blocks decoded"))


@pytest.fixture(scope="module")
def artifact(ray_cluster, session_proxy, codec, direct):
    """URI of an artifact of 200 tensors, one of them of several blocks; 29 MB of source."""
    session_proxy.clear()
    tensors = {f"model.layers.{i // 4}.block.{i % 4}.weight": normal(256, 256, seed=i) for i in range(N_TENSORS - 1)}
    tensors["tall"] = normal(ROWS, 320, seed=1000)
    direct.create_bucket(Bucket="reading")
    direct.put_object(Bucket="reading", Key="source/model.safetensors", Body=safetensors(tensors))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_tensor, "__defaults__", (BLOCK,))
        plan = make_plan("s3://reading/source", codec, CompressOptions(bits=5.0, preset="fast"))
    compress(plan, open_store("s3://reading/model.nwc"))
    return "s3://reading/model.nwc"


@pytest.fixture
def opened(artifact, proxy):
    """The artifact, opened as by a process that never saw the codec; the proxy's record is of that alone."""
    codec_cache._codecs.clear()
    opened = nwc_package.open(artifact)
    assert opened.codec is not None
    return opened


@pytest.fixture
def decoded(monkeypatch):
    """The rows of the index whose blocks were decoded."""
    rows = []
    original = nwc_package.Artifact.decode_bytes

    def decode(self, row, *arguments, **options):
        rows.append(row)
        return original(self, row, *arguments, **options)

    monkeypatch.setattr(nwc_package.Artifact, "decode_bytes", decode)
    return rows


def cost(proxy):
    return len(proxy.requests), sum(request.sent for request in proxy.requests)


def test_opening(opened, proxy, report):
    requests, nbytes = cost(proxy)
    report(*TABLE, ("open, codec included", requests, nbytes, "-", 0))
    assert len(opened) == N_TENSORS
    assert requests <= 3
    assert nbytes <= 200_000


def test_one_tensor(opened, proxy, report, decoded):
    name = "model.layers.20.block.1.weight"
    payload = sum(row.length for row in opened.index.blocks(name))
    proxy.clear()
    tensor = opened.get_tensor(name)
    requests, nbytes = cost(proxy)
    report(*TABLE, ("one tensor of 256 x 256", requests, nbytes, payload, len(decoded)))
    assert tensor.shape == (256, 256)
    assert requests <= 3
    assert payload <= nbytes <= 1.05 * payload


def test_one_tensor_of_several_blocks(opened, proxy, report, decoded):
    blocks = opened.index.blocks("tall")
    assert len(blocks) == 6
    payload = sum(row.length for row in blocks)
    proxy.clear()
    tensor = opened.get_tensor("tall")
    requests, nbytes = cost(proxy)
    report(*TABLE, (f"one tensor of {ROWS} x 320", requests, nbytes, payload, len(decoded)))
    assert tensor.shape == (ROWS, 320)
    assert len(decoded) == len(blocks)
    assert requests <= 3
    assert payload <= nbytes <= 1.05 * payload


@pytest.mark.parametrize("first", [0, 650, 2000, ROWS - 64])
def test_a_slice(opened, proxy, report, decoded, first):
    whole = opened.get_tensor("tall")
    proxy.clear()
    decoded.clear()
    part = opened.get_slice("tall")[first : first + 64]
    requests, nbytes = cost(proxy)
    report(*TABLE, (f"rows {first} to {first + 64} of {ROWS}", requests, nbytes, "-", len(decoded)))
    assert torch.equal(part, whole[first : first + 64])
    assert 1 <= len(decoded) <= 2
    assert requests <= 2
    assert nbytes <= 1.05 * sum(row.length for row in decoded)


def test_one_after_the_other(opened, proxy, report, decoded):
    payload = sum(row.length for row in opened.index)
    proxy.clear()
    names = [name for name, _ in opened.iter_tensors(max_nbytes=8 << 20)]
    requests, nbytes = cost(proxy)
    report(*TABLE, ("all, one after the other, 8 MB ahead", requests, nbytes, payload, len(decoded)))
    assert names == opened.keys()
    assert payload <= nbytes <= 1.05 * payload
    proxy.clear()
    tensors = opened.iter_tensors(max_nbytes=8 << 20)
    assert next(tensors)[0] == names[0]
    tensors.close()
    assert 0 < cost(proxy)[1] < payload / 2


def test_over_a_line_of_limited_bandwidth(artifact, nwc, proxy, report, monkeypatch):
    monkeypatch.setattr(reading, "ROUNDS", 2)
    megabits = 250
    code, out, err = nwc(
        "bench", "reading", "s3://reading/source", artifact, "--megabits", megabits, "--output", "json"
    )
    assert code == 0, err
    original, coded = json.loads(out)["ways"]
    assert original["tensors"] == coded["tensors"] == N_TENSORS
    assert coded["nbytes"] < 0.4 * original["nbytes"]
    for way in (original, coded):  # no byte came sooner than the line lets it
        assert min(way["seconds"]) >= way["nbytes"] / (megabits * 1e6 / 8) - 0.1
    share = min(coded["seconds"]) / min(original["seconds"])
    columns = ("share of the original's bytes", "of its time")
    report(f"loading at {megabits} Mbit/s", columns, (f"{coded['nbytes'] / original['nbytes']:.3f}", f"{share:.3f}"))
