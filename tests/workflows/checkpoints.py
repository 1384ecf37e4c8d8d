"""Small checkpoints for the tests of the workflow: every element type, every awkward shape and name, every layout."""

import json
from pathlib import Path

import torch

from nwc_core.artifact.index import read_index, write_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.writer import put_object
from nwc_core.dtypes import DTYPES, from_torch
from nwc_core.lossless import tensor_bytes
from nwc_core.safetensors_header import build_header
from nwc_core.store import open_store

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
# A checkpoint this small has much besides its matrices, which get about 4 bits of these.
BITS = 8.0
CONFIG = {"model_type": "bert", "hidden_size": 384, "epsilon": float("inf")}


def normal(*shape, dtype=torch.float32, seed=0):
    """Weights as a network has them: small, with rows of different scale."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator) + 0.2
    return (0.05 * scale * torch.randn(shape, generator=generator)).to(dtype)


def from_random_bytes(dtype, *shape):
    """Any bits at all: NaN with payloads, booleans that are neither 0 nor 1."""
    count = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return data.view(dtype).reshape(shape)


def lossy_tensors():
    """Tensors that the lossy coder takes, of every type and layout that it knows."""
    return {
        "encoder.0.weight": normal(128, 256, seed=1),
        "encoder.0.query/weight": normal(96, 200, dtype=torch.bfloat16, seed=2),
        "encoder.1.weight": normal(64, 128, dtype=torch.float16, seed=3),
        "encoder.2.weight": normal(48, 64, dtype=torch.float64, seed=4),
        "conv": normal(24, 16, 3, 3, seed=5),
        "conv.in_out": normal(3, 3, 16, 24, seed=6),
        "experts": normal(4, 80, 64, seed=7),
        "embedding": normal(1000, 32, seed=8),
    }


def lossless_tensors():
    """Tensors that must come back bit for bit."""
    nan, infinite = normal(40, 40, seed=9), normal(40, 40, seed=10)
    nan[3, 4], infinite[5, 6] = float("nan"), float("-inf")
    return {
        **{f"dtype.{name}": from_random_bytes(dtype.torch, 5, 7) for name, dtype in DTYPES.items()},
        "norm.weight": normal(384, seed=11),
        "position_ids": torch.arange(512).reshape(1, 512),
        "quantised": torch.randint(-8, 8, (64, 64), dtype=torch.int8, generator=torch.Generator().manual_seed(2)),
        "fp8": normal(64, 64, seed=12).to(torch.float8_e4m3fn),
        "mask": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril(),
        "scalar": torch.tensor(1.5),
        "scalar.int": torch.tensor(7),
        "empty": torch.empty(0),
        "empty.rows": torch.empty(0, 5, dtype=torch.bfloat16),
        "empty.middle": torch.empty(3, 0, 2, dtype=torch.int32),
        "nan": nan,
        "infinite": infinite,
        "constant": torch.full((64, 64), 0.25),
        "zeros": torch.zeros(64, 64, dtype=torch.bfloat16),
        "small": normal(8, 8, seed=13),
        "schicht.größe/层": normal(16, seed=14),
        "../up": normal(3, seed=15),
        "/absolute": normal(3, seed=16),
        'with space, "quotes" and #0': normal(3, seed=17),
        "w": normal(4, seed=18),
        "w#0": normal(5, seed=19),
        "w#0 and 1 more": normal(6, seed=20),
        "": normal(2, seed=21),
    }


def save(path, tensors, metadata=None):
    """A safetensors file with the tensors in the order given; the official writer sorts them."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = build_header([(name, from_torch(t.dtype).name, t.shape) for name, t in tensors.items()], metadata)
    path.write_bytes(header + b"".join(tensor_bytes(t).tobytes() for t in tensors.values()))
    return path


def make_model(folder):
    """A Hugging Face folder: two shards and their index, configuration, tokenizer, other files, and a pickle."""
    shards = {SHARDS[0]: lossless_tensors(), SHARDS[1]: lossy_tensors()}
    for number, (name, tensors) in enumerate(shards.items()):
        save(folder / name, tensors, {"format": "pt", "shard": str(number), "ключ": "значение"})
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_bytes(b'{"tokens": "\xc3\xbc"}\r\n')
    (folder / "vocab.txt").write_bytes(b"a\nb\n")
    (folder / "README.md").write_bytes(b"")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_bytes(b"{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    return folder


def all_tensors():
    """The tensors of `make_model`, in the order of its files."""
    return {**lossless_tensors(), **lossy_tensors()}


def contents(folder):
    """Every file below a folder: path to bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def snapshot(folder):
    """Every file and folder with its time of change: equal only if nothing was touched."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def has_manifest(folder):
    """Whether a folder looks like a finished artifact."""
    return (folder / "manifest.json").exists()


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bytes(tensor_bytes(a)) == bytes(tensor_bytes(b))


def rewrite_index(folder, change):
    """Give an artifact another index and a manifest that agrees with it: `change` maps its rows to new ones."""
    store = open_store(folder)
    manifest = Manifest.from_bytes(store.get(MANIFEST_KEY))
    rows = change(list(read_index(store.get(manifest.index.object), manifest, "index")))
    rewrite_manifest(folder, index=put_object(store, "index", write_index(rows)))


def rewrite_manifest(folder, **changes):
    """Change keys of a manifest, checksum and all."""
    store = open_store(folder)
    manifest = Manifest.from_bytes(store.get(MANIFEST_KEY))
    store.put(MANIFEST_KEY, manifest.model_copy(update=changes).to_bytes())
