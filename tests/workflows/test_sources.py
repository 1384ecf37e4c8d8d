import json
import math
import pickle

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.dtypes import DTYPES
from nwc_core.errors import FormatError, NotFoundError, StoreError, UsageError
from nwc_core.safetensors_header import build_header
from nwc_core.store import ObjectInfo
from nwc_infra.stores.local import LocalStore
from nwc_workflows.sources import Checkpoint, open_checkpoint, read_bytes, to_tensor


def weights(*names):
    torch.manual_seed(len(names))
    return {name: torch.randn(3, 5) for name in names}


def save(path, *names, metadata=None, tensors=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors or weights(*names), path, metadata)


def write_index(folder, weight_map, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index: a and b in the first, c in the second."""
    save(tmp_path / "model-1.safetensors", "a", "b")
    save(tmp_path / "model-2.safetensors", "c")
    write_index(tmp_path, {"c": "model-2.safetensors", "a": "model-1.safetensors", "b": "model-1.safetensors"})
    return tmp_path


def names_of(infos):
    return [info.key for info in infos]


# --- the shapes in which checkpoints come


@pytest.mark.parametrize("spelling", ["path", "text", "file://"])
def test_one_file_is_a_checkpoint_and_its_neighbours_are_not_looked_at(tmp_path, spelling):
    save(tmp_path / "x.safetensors", "b", "a", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text("this is no JSON")
    (tmp_path / "other.bin").write_bytes(b"pickle")
    path = tmp_path / "x.safetensors"
    checkpoint = open_checkpoint({"path": path, "text": str(path), "file://": f"file://{path}"}[spelling])
    assert [file.path for file in checkpoint.weight_files] == ["x.safetensors"]
    assert checkpoint.weight_files[0].size == path.stat().st_size
    assert checkpoint.weight_files[0].metadata == {"format": "pt"}
    assert checkpoint.other_files == checkpoint.skipped == ()
    assert checkpoint.config is None
    assert {tensor.name for tensor in checkpoint.tensors} == {"a", "b"}


def test_a_relative_file_name(tmp_path, monkeypatch):
    save(tmp_path / "x.safetensors", "a")
    monkeypatch.chdir(tmp_path)
    assert len(open_checkpoint("x.safetensors").tensors) == 1


def test_a_folder_named_like_a_file(tmp_path):
    save(tmp_path / "x.safetensors" / "model.safetensors", "a")
    assert [file.path for file in open_checkpoint(tmp_path / "x.safetensors").weight_files] == ["model.safetensors"]


def test_a_model_folder_carries_its_other_files_and_lists_what_is_left_out(tmp_path):
    save(tmp_path / "model.safetensors", "a")
    files = {
        "config.json": b'{"hidden_size": 8, "limits": [0.0, Infinity]}',
        "tokenizer.json": b"{}",
        "README.md": b"",
        ".gitattributes": b"x",
        "1_Pooling/config.json": b"{}",
        "pytorch_model.bin.index.json": b"{}",
        "pytorch_model.bin": b"12345",
        "onnx/model.ONNX": b"123",
        "onnx/model.onnx_data": b"1234",
        "flax_model.msgpack": b"1",
        "gguf/q4.gguf": b"12",
        "model.fp16.safetensors": b"1234567",
        "sub/model.safetensors": b"12",
        ".git/objects/ab/cd": b"123",
        ".git/HEAD": b"1",
        "sub/.cache/x.safetensors": b"1",
        "sub/.cache/deep/.er/y": b"12",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    checkpoint = open_checkpoint(tmp_path)
    carried = sorted([*list(files)[:6]])
    assert checkpoint.other_files == tuple(ObjectInfo(name, len(files[name])) for name in carried)
    assert checkpoint.config == {"hidden_size": 8, "limits": [0.0, math.inf]}
    assert [(entry.path, entry.size) for entry in checkpoint.skipped] == [
        (".git", 4),
        ("flax_model.msgpack", 1),
        ("gguf/q4.gguf", 2),
        ("model.fp16.safetensors", 7),
        ("onnx/model.ONNX", 3),
        ("onnx/model.onnx_data", 4),
        ("pytorch_model.bin", 5),
        ("sub/.cache", 3),
        ("sub/model.safetensors", 2),
    ]
    reasons = {entry.path: entry.reason for entry in checkpoint.skipped}
    assert reasons[".git"] == "hidden folder"
    assert reasons["pytorch_model.bin"].startswith("pickle: never loaded")
    assert reasons["model.fp16.safetensors"] == "safetensors beside model.safetensors"
    assert "subfolder" in reasons["sub/model.safetensors"]
    accounted = len(checkpoint.weight_files) + len(checkpoint.other_files) + len(checkpoint.skipped)
    assert accounted == 1 + len(files) - 2  # two files each in .git and sub/.cache are one entry


def test_a_folder_with_one_file_of_any_name(tmp_path):
    save(tmp_path / "diffusion_pytorch_model.safetensors", "a")
    assert len(open_checkpoint(tmp_path).tensors) == 1


def test_a_sharded_checkpoint(sharded):
    checkpoint = open_checkpoint(sharded)
    assert [file.path for file in checkpoint.weight_files] == ["model-1.safetensors", "model-2.safetensors"]
    assert [(tensor.name, tensor.file) for tensor in checkpoint.tensors] == [
        ("a", "model-1.safetensors"),
        ("b", "model-1.safetensors"),
        ("c", "model-2.safetensors"),
    ]
    assert names_of(checkpoint.other_files) == ["model.safetensors.index.json"]


def test_an_index_decides_which_files_are_weights(sharded):
    save(sharded / "consolidated.safetensors", "other")
    write_index(sharded, {"other": "consolidated.safetensors"}, "model.fp16.safetensors.index.json")
    checkpoint = open_checkpoint(sharded)
    assert len(checkpoint.tensors) == 3
    assert {entry.path: entry.reason for entry in checkpoint.skipped} == {
        "consolidated.safetensors": "safetensors that model.safetensors.index.json does not name",
        "model.fp16.safetensors.index.json": "an index beside model.safetensors.index.json, which counts",
    }


def test_an_index_may_name_the_single_file(tmp_path):
    save(tmp_path / "model.safetensors", "a")
    write_index(tmp_path, {"a": "model.safetensors"})
    assert len(open_checkpoint(tmp_path).tensors) == 1


def test_tensors_come_in_order_of_their_place(tmp_path):
    entries = [("z", "U8", [2]), ("a", "F32", [1]), ("m", "U8", [0]), ("b", "BOOL", [1])]
    (tmp_path / "model.safetensors").write_bytes(build_header(entries) + b"\1\2" + bytes(4) + b"\1")
    checkpoint = open_checkpoint(tmp_path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["z", "a", "m", "b"]
    starts = [tensor.start for tensor in checkpoint.tensors]
    assert [start - starts[0] for start in starts] == [0, 2, 6, 6]
    assert [(tensor.numel, tensor.nbytes) for tensor in checkpoint.tensors] == [(2, 2), (1, 4), (0, 0), (1, 1)]


def test_a_hugging_face_cache_whose_files_are_links(tmp_path):
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save(tmp_path / "models--x" / "blobs" / "b10b", "a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b10b")
    for source in (snapshot, snapshot / "model.safetensors"):
        checkpoint = open_checkpoint(source)
        assert len(read_bytes(checkpoint, checkpoint.tensors[0])) == 60
        assert checkpoint.weight_files[0].size == (tmp_path / "models--x" / "blobs" / "b10b").stat().st_size


def test_a_folder_given_by_a_link(tmp_path):
    save(tmp_path / "real" / "model.safetensors", "a")
    (tmp_path / "alias").symlink_to("real")
    assert len(open_checkpoint(tmp_path / "alias").tensors) == 1


class Elsewhere:
    """A store that is not local and records what is asked of it."""

    uri = "elsewhere://bucket/model"

    def __init__(self, folder):
        self.local, self.ranges, self.gets = LocalStore(folder), [], []

    def size(self, key):
        return self.local.size(key)

    def version(self, key):
        return self.local.version(key)

    def get(self, key):
        self.gets.append(key)
        return self.local.get(key)

    def get_range(self, key, start, stop):
        self.ranges.append((key, start, stop))
        return self.local.get_range(key, start, stop)

    def list(self, prefix=""):
        return self.local.list(prefix)

    def put(self, key, data):
        raise AssertionError("a source is not written")

    create = delete = put_stream = put


def test_any_store_will_do_and_opening_reads_no_weight(sharded):
    (sharded / "config.json").write_text("{}")
    store = Elsewhere(sharded)
    checkpoint = open_checkpoint(store)
    assert checkpoint.store is store
    assert checkpoint.config == {}
    first = {file: min(t.start for t in checkpoint.tensors if t.file == file) for file in ("model-1.safetensors",)}
    read = sorted(entry for entry in store.ranges if entry[0] == "model-1.safetensors")
    assert read == [("model-1.safetensors", 0, 8), ("model-1.safetensors", 8, first["model-1.safetensors"])]
    assert store.gets == []
    store.ranges.clear()
    c = checkpoint.tensors[2]
    read_bytes(checkpoint, c, 2, 7)
    assert store.ranges == [("model-2.safetensors", c.start + 8, c.start + 28)]


def test_an_empty_store_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="elsewhere://bucket/model"):
        open_checkpoint(Elsewhere(tmp_path / "missing"))


def test_a_checkpoint_can_be_pickled(sharded):
    checkpoint = open_checkpoint(sharded)
    other: Checkpoint = pickle.loads(pickle.dumps(checkpoint))
    assert other.tensors == checkpoint.tensors
    assert read_bytes(other, other.tensors[1]) == read_bytes(checkpoint, checkpoint.tensors[1])


# --- reading tensors


def noise(dtype, shape):
    generator = torch.Generator().manual_seed(7)
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    raw = torch.randint(0, 2 if dtype == "BOOL" else 256, (nbytes,), dtype=torch.uint8, generator=generator)
    if not nbytes:
        return torch.empty(shape, dtype=DTYPES[dtype].torch)
    return raw.view(DTYPES[dtype].torch).reshape(shape)


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (4, 6), (2, 3, 1, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_rank_comes_back_bit_for_bit(tmp_path, dtype, shape):
    original = noise(dtype, shape)
    save(tmp_path / "model.safetensors", tensors={"pad": torch.zeros(3, dtype=torch.uint8), "t": original})
    checkpoint = open_checkpoint(tmp_path)
    tensor = next(tensor for tensor in checkpoint.tensors if tensor.name == "t")
    assert (tensor.dtype, tensor.shape, tensor.file) == (DTYPES[dtype], shape, "model.safetensors")
    back = to_tensor(read_bytes(checkpoint, tensor), tensor.dtype, tensor.shape)
    assert (back.dtype, back.shape) == (original.dtype, original.shape)
    assert bits(back) == bits(original)


@settings(max_examples=50)
@given(st.data())
def test_ranges_of_elements(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "ranges"
    if not folder.exists():
        save(folder / "model.safetensors", tensors={"t": torch.arange(40, dtype=torch.int16).reshape(8, 5)})
    checkpoint = open_checkpoint(folder)
    tensor = checkpoint.tensors[0]
    first = data.draw(st.integers(0, 40))
    last = data.draw(st.integers(first, 40))
    part = to_tensor(read_bytes(checkpoint, tensor, first, last), tensor.dtype, [last - first])
    assert part.tolist() == list(range(first, last))
    assert read_bytes(checkpoint, tensor, first) == read_bytes(checkpoint, tensor, first, 40)


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (0, 16), (5, 4), (16, None)])
def test_elements_that_do_not_exist(sharded, first, last):
    checkpoint = open_checkpoint(sharded)
    with pytest.raises(UsageError, match="tensor 'a'"):
        read_bytes(checkpoint, checkpoint.tensors[0], first, last)


def test_a_file_that_shrinks_after_opening(sharded):
    checkpoint = open_checkpoint(sharded)
    path = sharded / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"model-2\.safetensors"):
        read_bytes(checkpoint, checkpoint.tensors[2])


def test_a_tensor_has_its_own_memory():
    data = b"\1\2\3\4"
    tensor = to_tensor(data, DTYPES["U8"], (2, 2))
    tensor += 1
    assert data == b"\1\2\3\4"


@pytest.mark.parametrize(
    ("data", "shape"),
    [(b"123", [1]), (b"12345", [1]), (b"", [1]), (b"1234", [0]), (b"", [0, 1 << 63])],
)
def test_bytes_that_do_not_fit_a_shape(data, shape):
    with pytest.raises(FormatError, match="tensor data"):
        to_tensor(data, DTYPES["F32"], shape)
