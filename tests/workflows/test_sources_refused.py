import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nwc_core.errors import FormatError, NotFoundError, StoreError, UnsupportedSourceError
from nwc_workflows import source_files
from nwc_workflows.sources import open_checkpoint


def save(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: torch.ones(3, 5) for name in names}, path)


def write_index(folder, weight_map, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path):
    """Two shards and their index: a and b in the first, c in the second."""
    save(tmp_path / "model-1.safetensors", "a", "b")
    save(tmp_path / "model-2.safetensors", "c")
    write_index(tmp_path, {"c": "model-2.safetensors", "a": "model-1.safetensors", "b": "model-1.safetensors"})
    return tmp_path


# --- what is refused


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "X.PTH", "a/b.ckpt", "m.pkl"])
def test_pickles_are_refused_and_the_way_out_is_told(tmp_path, name):
    (tmp_path / "m" / name).parent.mkdir(parents=True)
    trap = tmp_path / "loaded"
    (tmp_path / "m" / name).write_bytes(pickle.dumps(Trap(str(trap))))
    (tmp_path / "m" / "config.json").write_text("{}")
    for source in (tmp_path / "m", tmp_path / "m" / name):
        with pytest.raises(UnsupportedSourceError) as caught:
            open_checkpoint(source)
        for words in (Path(name).name, "never loaded", "save_pretrained", "safetensors.torch.save_file"):
            assert words in str(caught.value)
    assert not trap.exists()


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "name", ["model.onnx", "q4.gguf", "tf_model.h5", "flax_model.msgpack", "m.tflite", "rust_model.ot"]
)
def test_other_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(UnsupportedSourceError, match="not read"):
            open_checkpoint(source)


@pytest.mark.parametrize("name", ["missing", "missing/model.safetensors", "missing.bin", "missing.safetensors"])
def test_what_does_not_exist_is_not_found(tmp_path, name):
    with pytest.raises(NotFoundError, match=name):
        open_checkpoint(tmp_path / name)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FormatError, match="an empty folder"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(FormatError, match="no weights among 1 files"):
        open_checkpoint(tmp_path)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(FormatError, match=r"README\.md: found a file of another kind"):
        open_checkpoint(tmp_path / "README.md")


def test_several_files_without_an_index(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors"):
        save(tmp_path / name, "a")
    with pytest.raises(FormatError, match="2 safetensors files without an index"):
        open_checkpoint(tmp_path)


def test_weights_only_in_subfolders(tmp_path):
    save(tmp_path / "unet" / "model.safetensors", "a")
    with pytest.raises(FormatError, match="only in subfolders"):
        open_checkpoint(tmp_path)


def test_a_model_beside_an_index_that_does_not_name_it(sharded):
    save(sharded / "model.safetensors", "a")
    with pytest.raises(FormatError, match=r"both model\.safetensors and"):
        open_checkpoint(sharded)


def test_a_damaged_weight_file_is_named(sharded):
    path = sharded / "model-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"model-2\.safetensors: tensor 'c'"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a":' * 100_000, '"\\ud800"', "9" * 10_000, b"\xff\xff"])
def test_a_config_that_is_none(tmp_path, text):
    save(tmp_path / "model.safetensors", "a")
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_a_config_of_absurd_size_is_not_read(tmp_path, monkeypatch):
    save(tmp_path / "model.safetensors", "a")
    (tmp_path / "config.json").write_text("{}" + " " * 100)
    monkeypatch.setattr(source_files, "MAX_JSON_NBYTES", 100)
    with pytest.raises(FormatError, match=r"config\.json: found 102 bytes"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "sub"])
def test_links_out_of_the_folder_are_refused_when_opening(tmp_path, name):
    save(tmp_path / "m" / "model.safetensors", "a")
    save(tmp_path / "outside" / "secret", "a")
    (tmp_path / "m" / name).unlink(missing_ok=True)
    (tmp_path / "m" / name).symlink_to(tmp_path / "outside" / ("" if name == "sub" else "secret"))
    with pytest.raises(StoreError, match=f"{name}: refused: a symbolic link leads out"):
        open_checkpoint(tmp_path / "m")


# --- hostile indexes

A, C = "model-1.safetensors", "model-2.safetensors"
INDEXES = {
    "not JSON": ("nonsense", "error at character 0"),
    "not UTF-8": (b"\xff{}", "not UTF-8"),
    "deep": ("[" * 100_000, "nested"),
    "a list": ("[]", "wanted a JSON object"),
    "no map": ("{}", "weight_map: found None"),
    "empty map": ({}, "weight_map: found {}"),
    "map of a list": ('{"weight_map": ["a"]}', "weight_map: found"),
    "map to numbers": ({"a": 1}, "weight_map: found"),
    "tensor twice": ('{"weight_map": {"a": "x", "a": "y"}}', "the key 'a' twice"),
    "missing shard": (
        {"a": A, "b": A, "c": "model-3.safetensors"},
        "'c': found the shard 'model-3.safetensors', .*missing",
    ),
    "parent folder": ({"a": "../model-1.safetensors"}, "'a': found the shard .*outside of the folder"),
    "through a folder": ({"a": "x/../../model-1.safetensors"}, "outside of the folder"),
    "absolute": ({"a": "/etc/passwd.safetensors"}, "outside of the folder"),
    "URI": ({"a": "s3://bucket/model.safetensors"}, "outside of the folder"),
    "empty name": ({"a": ""}, "missing"),
    "NUL": ({"a": "model\0.safetensors"}, "missing"),
    "pickle": ({"a": "pytorch_model.bin"}, "save_pretrained"),
    "no safetensors": ({"a": "config.json"}, "no safetensors file"),
    "hidden": ({"a": ".cache/model.safetensors"}, "missing"),
    "tensor that its shard lacks": ({"a": A, "b": A, "c": C, "d": C}, f"'d': found it in no shard; wanted it in {C}"),
    "tensor in another shard": ({"a": A, "b": C, "c": C}, f"'b': found it in {A}; wanted it in {C}"),
    "tensor left out": ({"a": A, "c": C}, f"'b': found it in {A}, but not in the index"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_hostile_indexes(sharded, name):
    index, words = INDEXES[name]
    (sharded / "config.json").write_text("{}")
    save(sharded / ".cache" / "model.safetensors", "a")
    if isinstance(index, dict):
        write_index(sharded, index)
    else:
        (sharded / "model.safetensors.index.json").write_bytes(index if isinstance(index, bytes) else index.encode())
    with pytest.raises(FormatError, match=words) as caught:
        open_checkpoint(sharded)
    assert "model.safetensors.index.json" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_tensor_in_two_shards(sharded):
    save(sharded / "model-2.safetensors", "c", "a")
    with pytest.raises(
        FormatError, match=r"tensor 'a': found it in both model-1\.safetensors and model-2\.safetensors"
    ):
        open_checkpoint(sharded)


def test_two_indexes_without_the_usual_name(tmp_path):
    for name in ("x", "y"):
        save(tmp_path / f"{name}.safetensors", "a")
        write_index(tmp_path, {"a": f"{name}.safetensors"}, f"{name}.safetensors.index.json")
    with pytest.raises(FormatError, match="2 index files"):
        open_checkpoint(tmp_path)
