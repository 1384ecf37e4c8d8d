"""An artifact as the weight file that transformers opens: the tensors of the artifact, in few requests."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from artifact_samples import MemoryStore, make_artifact

import nwc_core as nwc
from nwc_core.errors import IntegrityError, StoreError

pytest.importorskip("transformers")
from nwc_core.hf.block_bytes import BlockBytes
from nwc_core.hf.compressed import CompressedTensor
from nwc_core.hf.weights import WEIGHTS_NAME, OpenWeights, WeightFile, opening_artifacts

TENSORS = {
    "matrix": torch.randn(100, 60, generator=torch.Generator().manual_seed(1)),
    "brain": torch.randn(64, 32, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16),
    "scalar": torch.tensor(-1.5, dtype=torch.float64),
    "empty": torch.empty(0, 3, dtype=torch.int32),
    "flags": torch.tensor([True, False, True]),
    "fp8": torch.arange(8.0).to(torch.float8_e4m3fn),
}


@pytest.fixture(name="store")
def store_of_all():
    return make_artifact(TENSORS, rows=50, bits=6.0)


@pytest.mark.parametrize("compressed", [False, True])
def test_tensors_are_those_of_the_artifact(store, compressed):
    with OpenWeights(store, compressed) as opened, nwc.open(store) as artifact:
        assert opened.keys() == list(TENSORS)
        assert opened.metadata()["format"] == "pt"
        for name, tensor in TENSORS.items():
            lazy, wanted = opened.get_slice(name), artifact.get_tensor(name)
            assert (lazy.get_shape(), lazy.get_dtype()) == (list(tensor.shape), artifact.get_slice(name).get_dtype())
            found = opened.get_tensor(name)
            values = found.decoded() if isinstance(found, CompressedTensor) else found
            assert (values.dtype, values.shape) == (wanted.dtype, wanted.shape)
            assert torch.equal(values.float(), wanted.float())
        assert torch.equal(opened.get_slice("matrix")[3:5, ::2], artifact.get_tensor("matrix")[3:5, ::2])
        assert isinstance(opened.get_tensor("matrix"), CompressedTensor) == compressed


def test_each_payload_is_read_once_whatever_the_order(store):
    opened = OpenWeights(store)
    store.requests.clear()
    slices = [opened.get_slice(name) for name in reversed(TENSORS)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda lazy: lazy[...], slices))
    assert len(store.requests) == sum(key.startswith("payload-") for key in store.objects)


def test_a_block_that_is_asked_for_again_is_read_alone(store):
    artifact = nwc.open(store)
    blocks = BlockBytes(artifact)
    first, second, *_ = artifact.index
    assert blocks.take(first) == blocks.take(first) == artifact.read_block(first)
    store.requests.clear()
    assert blocks.take(second) == artifact.read_block(second)
    assert len(store.requests) == 1  # by the reader: the other had it already


def test_a_request_that_failed_is_made_again(store, monkeypatch):
    artifact = nwc.open(store)
    blocks = BlockBytes(artifact)
    first, *_ = artifact.index
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "get_range", lambda *_: (_ for _ in ()).throw(StoreError("key", "is down")))
        with pytest.raises(StoreError, match="is down"):
            blocks.take(first)
    assert blocks.take(first) == artifact.read_block(first)


def test_damage_names_tensor_and_place(store):
    row = list(nwc.open(store).index)[1]
    data = bytearray(store.objects[row.object])
    data[row.offset] ^= 1
    store.objects[row.object] = bytes(data)
    with pytest.raises(IntegrityError, match=rf"memory://test/payload-.*: tensor 'matrix', block \[{row.start}, "):
        OpenWeights(store).get_tensor("matrix")


def test_only_the_files_of_artifacts_are_opened_in_another_way(store, tmp_path):
    opened = []
    safe_open = opening_artifacts(lambda name, *args, **kwargs: opened.append((name, args, kwargs)))
    assert isinstance(safe_open(WeightFile(store, True), framework="pt", device="cpu"), OpenWeights)
    for key, data in store.objects.items():
        (tmp_path / key).write_bytes(data)
    assert isinstance(safe_open(str(tmp_path / WEIGHTS_NAME)), OpenWeights)
    assert not opened
    safe_open("model.safetensors", "pt", device="cpu")
    assert opened == [("model.safetensors", ("pt",), {"device": "cpu"})]
