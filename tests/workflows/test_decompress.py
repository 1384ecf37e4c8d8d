"""Decompressing: the checkpoint again, and never half of a file."""

import pytest
import safetensors
import torch
from checkpoints import (
    SHARDS,
    all_tensors,
    contents,
    lossless_tensors,
    lossy_tensors,
    normal,
    same_bits,
    save,
    snapshot,
)

import nwc_core
from nwc_core.errors import AlreadyExistsError, IntegrityError, NotFoundError, StoreError
from nwc_core.safetensors_header import parse_header
from nwc_infra.stores.local import LocalStore
from nwc_workflows.compress import compress
from nwc_workflows.decompress import decompress
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.sources import open_checkpoint, read_bytes, to_tensor


def restore(artifact, destination, **options):
    with nwc_core.open(artifact) as opened:
        return decompress(opened, LocalStore(destination), **options)


@pytest.fixture(scope="module")
def restored(artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("restored") / "model"
    restore(artifact, folder)
    return folder


def header_of(path):
    data = path.read_bytes()
    return parse_header(lambda start, stop: data[start:stop], len(data), str(path))


def test_the_same_files_come_back(restored, model):
    assert set(contents(restored)) == set(contents(model)) - {"pytorch_model.bin"}
    for name, data in contents(model).items():
        if name not in (*SHARDS, "pytorch_model.bin"):
            assert (restored / name).read_bytes() == data, name


@pytest.mark.parametrize("shard", SHARDS)
def test_a_shard_has_its_tensors_in_their_order_and_its_metadata(restored, model, shard):
    found, wanted = header_of(restored / shard), header_of(model / shard)
    assert list(found.tensors) == list(wanted.tensors)
    assert found.metadata == wanted.metadata != {}
    assert [(t.dtype, t.shape) for t in found.tensors.values()] == [(t.dtype, t.shape) for t in wanted.tensors.values()]


def test_lossless_tensors_come_back_bit_for_bit(restored):
    checkpoint = open_checkpoint(restored)
    wanted = lossless_tensors()
    found = {
        t.name: to_tensor(read_bytes(checkpoint, t), t.dtype, t.shape) for t in checkpoint.tensors if t.name in wanted
    }
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert same_bits(found[name], tensor), name


def test_the_official_library_opens_every_file(restored, artifact):
    tensors = {}
    for shard in SHARDS:
        with safetensors.safe_open(restored / shard, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            assert file.metadata()["ключ"] == "значение"
    assert tensors.keys() == all_tensors().keys()
    with nwc_core.open(artifact) as opened:
        for name in lossy_tensors():
            assert same_bits(tensors[name], opened.get_tensor(name))  # one decoder, one result


def test_a_file_of_lossless_tensors_comes_back_byte_for_byte(codec, tmp_path, ray_cluster):
    path = save(tmp_path / "m.safetensors", lossless_tensors() | {"int": torch.arange(10)}, {"b": "2", "a": "1"})
    compress(make_plan(path, codec, CompressOptions(bits=60)), LocalStore(tmp_path / "out"))
    (only,) = restore(tmp_path / "out", tmp_path / "back")
    assert (only.path, only.size) == ("m.safetensors", path.stat().st_size)
    assert (tmp_path / "back" / "m.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("tensors", [{}, {"empty": torch.empty(0, 3)}], ids=["no tensors", "an empty tensor"])
def test_a_checkpoint_of_nothing_comes_back(codec, tmp_path, ray_cluster, tensors):
    path = save(tmp_path / "m.safetensors", tensors)
    compress(make_plan(path, codec, CompressOptions()), LocalStore(tmp_path / "out"))
    restore(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "m.safetensors").read_bytes() == path.read_bytes()


def test_what_was_restored_and_how_far_it_is_are_reported(artifact, tmp_path):
    steps = []
    files = restore(artifact, tmp_path / "back", on_progress=steps.append)
    sizes = {name: len(data) for name, data in contents(tmp_path / "back").items()}
    assert {file.path: file.size for file in files} == sizes
    assert sum(steps) == sum(sizes.values())


# --- a destination that is taken


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", SHARDS[1]])
def test_a_file_that_is_there_stops_everything(artifact, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(AlreadyExistsError, match=f"{name}: already exists; nothing was written; choose another"):
        restore(artifact, tmp_path)
    assert snapshot(tmp_path) == before


def test_twice_is_once_too_often(artifact, restored):
    before = snapshot(restored)
    with pytest.raises(AlreadyExistsError, match="already exists; nothing was written"):
        restore(artifact, restored)
    assert snapshot(restored) == before


def test_files_of_other_names_stay(artifact, restored, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    restore(artifact, tmp_path)
    assert contents(tmp_path) == {**contents(restored), "notes.txt": b"mine"}


def test_the_artifact_itself_is_no_destination(artifact):
    before = snapshot(artifact)
    with pytest.raises(AlreadyExistsError, match="already exists; nothing was written"):
        restore(artifact, artifact)
    assert snapshot(artifact) == before


# --- damage


def payload_of(artifact, tensor):
    with nwc_core.open(artifact) as opened:
        row = opened.index.blocks(tensor)[0]
    return artifact / row.object, row


@pytest.mark.parametrize(("tensor", "shard"), [("embedding", SHARDS[1]), ("norm.weight", SHARDS[0])])
def test_a_damaged_block_leaves_no_half_written_file(own_artifact, tmp_path, tensor, shard):
    path, row = payload_of(own_artifact, tensor)
    data = bytearray(path.read_bytes())
    data[row.offset + row.length - 1] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"{path.name}: tensor '{tensor}', block .*: found SHA-256"):
        restore(own_artifact, tmp_path / "back")
    assert shard not in contents(tmp_path / "back")
    assert not [name for name in contents(tmp_path / "back") if "tmp" in name]


def test_a_missing_payload_is_named(own_artifact, tmp_path):
    path, _ = payload_of(own_artifact, "embedding")
    path.unlink()
    with pytest.raises(NotFoundError, match=path.name):
        restore(own_artifact, tmp_path / "back")
    assert SHARDS[1] not in contents(tmp_path / "back")


def test_a_damaged_carried_file_is_not_written(own_artifact, tmp_path):
    (own_artifact / "tokenizer.json").write_bytes(b'{"tokens": "\xc3\xbd"}\r\n')
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: found SHA-256"):
        restore(own_artifact, tmp_path / "back")
    assert not {"tokenizer.json", *SHARDS} & set(contents(tmp_path / "back"))


def test_a_destination_that_is_a_file_is_refused(artifact, tmp_path):
    (tmp_path / "back").write_text("mine")
    with pytest.raises(StoreError, match="an object is in the way"):
        restore(artifact, tmp_path / "back")
    assert (tmp_path / "back").read_text() == "mine"


def test_memory_holds_one_block_at_a_time(codec, tmp_path, ray_cluster):
    """A shard is written as it is decoded, so it may be larger than memory."""
    path = save(tmp_path / "m.safetensors", {f"w{i}": normal(100, 100, seed=i) for i in range(5)})
    compress(make_plan(path, codec, CompressOptions(bits=20)), LocalStore(tmp_path / "out"))

    class Watched(LocalStore):
        def put_stream(self, key, chunks):
            sizes.extend(len(chunk) for chunk in chunks)

    sizes = []
    with nwc_core.open(tmp_path / "out") as opened:
        decompress(opened, Watched(tmp_path / "back"))
    assert sizes[1:] == [40_000] * 5
