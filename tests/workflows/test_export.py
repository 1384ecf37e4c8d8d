"""`nwc export`: a plain checkpoint, sharded as wanted, that other tools load."""

import json
from functools import partial

import pytest
import safetensors
import torch
from checkpoints import CONFIG, SHARDS, all_tensors, contents, normal, same_bits, save, snapshot
from s3_server import new_bucket, s3_server

import nwc_core
from nwc_core.errors import AlreadyExistsError, IntegrityError, UsageError
from nwc_core.store import open_store
from nwc_infra.stores.local import LocalStore
from nwc_workflows.compress import compress
from nwc_workflows.export import plan_export
from nwc_workflows.float_types import BY_TORCH_NAME
from nwc_workflows.plan import CompressOptions, make_plan
from nwc_workflows.sources import open_checkpoint

INDEX = "model.safetensors.index.json"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def export(artifact, destination, *arguments, **options):
    with nwc_core.open(artifact) as opened:
        return plan_export(opened, *arguments, **options).write(opened, LocalStore(destination))


def tensors_in(folder):
    """All tensors of a folder's safetensors files, by the official library."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            out |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return out


@pytest.fixture(scope="module")
def make(codec, tmp_path_factory, ray_cluster):
    """Compresses a folder with these files; the artifact's folder."""

    def run(files, bits=30.0):
        folder = tmp_path_factory.mktemp("made")
        for name, content in files.items():
            if isinstance(content, dict) and name.endswith(".safetensors"):
                save(folder / "source" / name, content)
            else:
                (folder / "source" / name).write_text(json.dumps(content))
        compress(make_plan(folder / "source", codec, CompressOptions(bits=bits)), open_store(folder / "out"))
        return folder / "out"

    return run


def test_one_file_where_it_fits(artifact, tmp_path, model):
    written = export(artifact, tmp_path / "out")
    found = contents(tmp_path / "out")
    assert set(found) == set(contents(model)) - {*SHARDS, INDEX, "pytorch_model.bin"} | {"model.safetensors"}
    assert {file.path: file.size for file in written} == {name: len(data) for name, data in found.items()}
    for name in set(found) - {"model.safetensors"}:
        assert found[name] == (model / name).read_bytes(), name
    with nwc_core.open(artifact) as opened:
        back = tensors_in(tmp_path / "out")
        assert list(back) != []
        assert back.keys() == all_tensors().keys()
        assert all(same_bits(back[name], opened.get_tensor(name)) for name in back)
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_shards_and_their_index(artifact, tmp_path):
    export(artifact, tmp_path / "out", 100_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 3
    index = json.loads((tmp_path / "out" / INDEX).read_bytes())
    checkpoint = open_checkpoint(tmp_path / "out")  # refuses an index that does not agree with the headers
    assert index["weight_map"] == {t.name: t.file for t in checkpoint.tensors}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in checkpoint.tensors)
    for name in files:
        nbytes = [t.nbytes for t in checkpoint.tensors if t.file == name]
        assert sum(nbytes) <= 100_000 or len([n for n in nbytes if n]) == 1
    back = tensors_in(tmp_path / "out")
    with nwc_core.open(artifact) as opened:
        assert all(same_bits(back[name], opened.get_tensor(name)) for name in all_tensors())


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_another_type(make, tmp_path, dtype):
    """Floating-point tensors become it, coded or lossless; all others stay."""
    others = {"int": torch.arange(9), "fp8": normal(8, 8).to(torch.float8_e4m3fn), "bool": torch.tensor([True, False])}
    weights = {f"{t}".removeprefix("torch."): normal(64, 64, dtype=t) for t in FLOATS}
    path = make({"model.safetensors": {**weights, **others, "norm": normal(64), "scalar": torch.tensor(1.5)}})
    export(path, tmp_path / "out", dtype=BY_TORCH_NAME[dtype])
    back = tensors_in(tmp_path / "out")
    with nwc_core.open(path) as opened:
        assert back.keys() == set(opened.keys())
        for name, tensor in back.items():
            stored = opened.get_tensor(name)
            assert same_bits(tensor, stored if name in others else stored.to(getattr(torch, dtype))), name


def test_the_configuration_says_the_type(make, tmp_path):
    config = {
        "torch_dtype": "float32",
        "text_config": {"dtype": "float32", "x": [1]},
        "dtype": "auto",
        "inf": float("inf"),
    }
    path = make({"model.safetensors": {"w": normal(64, 64)}, "config.json": config})
    export(path, tmp_path / "out", dtype=BY_TORCH_NAME["bfloat16"])
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        **config,
        "torch_dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "x": [1]},
    }
    assert tensors_in(tmp_path / "out")["w"].dtype == torch.bfloat16


def test_no_word_of_nwc_is_left_and_other_methods_stay(make, tmp_path):
    from nwc_workflows.carried import FOR_TRANSFORMERS

    weights = {"model.safetensors": {"w": normal(64, 64)}}
    export(make({**weights, "config.json": {**CONFIG, **FOR_TRANSFORMERS}}), tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text()) == CONFIG
    theirs = {"quantization_config": {"quant_method": "fp8", "dtype": "float32"}, "nothing": None}
    export(make({**weights, "config.json": theirs}), tmp_path / "b", dtype=BY_TORCH_NAME["bfloat16"])
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == theirs


def test_a_number_that_the_type_cannot_hold_is_refused(make, tmp_path):
    path = make({"model.safetensors": {"big": torch.tensor([1.0, 7e4, float("inf"), float("nan")])}})
    with pytest.raises(UsageError, match="tensor 'big': found 70000; wanted at most 65504, where float16 ends"):
        export(path, tmp_path / "out", dtype=BY_TORCH_NAME["float16"])
    assert not contents(tmp_path / "out")
    export(path, tmp_path / "out", dtype=BY_TORCH_NAME["bfloat16"])
    assert torch.isinf(tensors_in(tmp_path / "out")["big"]).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("files", "stem"),
    [
        ({"weights.safetensors": {"w": normal(8, 8)}}, "model"),
        ({"adapter_model.safetensors": {"w": normal(8, 8)}}, "adapter_model"),
        (
            {
                "unet-1.safetensors": {"w": normal(8, 8)},
                "diffusion_pytorch_model.safetensors.index.json": {"weight_map": {"w": "unet-1.safetensors"}},
            },
            "diffusion_pytorch_model",
        ),
    ],
)
def test_names_are_those_that_readers_look_for(make, tmp_path, files, stem):
    export(make(files, bits=4000.0), tmp_path / "out")
    assert list(contents(tmp_path / "out")) == [f"{stem}.safetensors"]


def test_nothing_is_mixed_with_weights_that_are_there(artifact, tmp_path):
    export(artifact, tmp_path / "out", 100_000)
    before = snapshot(tmp_path / "out")
    for size in (100_000, 200_000, 10**9):
        with pytest.raises(
            AlreadyExistsError, match=r"model-00001-of-\d+.safetensors: already exists; nothing was written"
        ):
            export(artifact, tmp_path / "out", size)
    assert snapshot(tmp_path / "out") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("mine")
    with pytest.raises(AlreadyExistsError, match=r"config.json: already exists; nothing was written"):
        export(artifact, tmp_path / "other")
    assert contents(tmp_path / "other") == {"config.json": b"mine"}


def test_damage_leaves_no_half_of_a_file(own_artifact, tmp_path):
    with nwc_core.open(own_artifact) as opened:
        row = opened.index.blocks("embedding")[0]
    path = own_artifact / row.object
    data = bytearray(path.read_bytes())
    data[row.offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="tensor 'embedding'"):
        export(own_artifact, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


# --- the command


def test_the_command(nwc, artifact, tmp_path):
    run = partial(nwc, "export", artifact)
    code, out, err = run(tmp_path / "out", "--max-shard-size", "0.1MB", "--output", "json")
    assert code == 0
    data = json.loads(out)
    assert set(data) == {"destination", "bytes", "shards", "files", "skipped"}
    assert {file["path"]: file["size"] for file in data["files"]} == {
        name: len(content) for name, content in contents(tmp_path / "out").items()
    }
    assert data["shards"] == len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert "not in the artifact: pytorch_model.bin: pickle" in err
    code, out, _ = run(tmp_path / "one")
    assert code == 0
    assert out.startswith(f"{tmp_path}/one: 6 files, 1 of weights, ")


@pytest.mark.parametrize("size", ["5XB", "0", "GB", "-1GB", "0.2", "many"])
def test_a_size_that_is_none_is_wrong_usage(nwc, artifact, tmp_path, size):
    code, out, err = nwc("export", artifact, tmp_path / "out", f"--max-shard-size={size}")
    assert (code, out) == (2, "")
    assert f"found {size!r}; wanted bytes, such as 5GB or 500MiB" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "nbytes"), [("5GB", 5e9), ("1.5 MiB", 1.5 * 2**20), ("70k", 70e3), ("123", 123), ("9b", 9)]
)
def test_sizes_are_read(size, nbytes):
    from nwc_workflows.commands.export import _nbytes

    assert _nbytes(None, None, size) == nbytes


def test_transformers_loads_it(codec, tmp_path, ray_cluster):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "source")
    compress(make_plan(tmp_path / "source", codec, CompressOptions(bits=8)), open_store(tmp_path / "a.nwc"))
    export(tmp_path / "a.nwc", tmp_path / "out", 100_000, dtype=BY_TORCH_NAME["bfloat16"])
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    state = loaded.state_dict()
    wanted = nwc_core.load(tmp_path / "a.nwc")
    assert wanted.keys() <= state.keys()
    assert all(same_bits(state[name], tensor.to(torch.bfloat16)) for name, tensor in wanted.items())


def test_it_goes_to_and_comes_from_s3(nwc, artifact, tmp_path, monkeypatch):
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        bucket = f"s3://{new_bucket(url)}"
        for name, data in contents(artifact).items():
            open_store(f"{bucket}/a.nwc").put(name, data)
        assert nwc("export", f"{bucket}/a.nwc", f"{bucket}/out", "--max-shard-size", "100kB")[0] == 0
        export(artifact, tmp_path / "out", 100_000)
        store = open_store(f"{bucket}/out")
        assert {info.key: store.get(info.key) for info in store.list()} == contents(tmp_path / "out")
        assert nwc("cat", f"{bucket}/a.nwc", "conv", "--to", f"{bucket}/x.npy")[0] == 0
        code, _, err = nwc("cat", f"{bucket}/a.nwc", "conv", "--to", f"{bucket}/x.npy")
        assert code == 1
        assert "/x.npy: already exists; nothing was written; --force replaces it" in err
        assert [info.key for info in open_store(bucket).list("x")] == ["x.npy"]
