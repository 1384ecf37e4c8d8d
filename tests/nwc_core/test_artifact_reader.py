"""Reading artifacts: whole tensors, slices, few requests, and damage of every kind."""

from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from artifact_samples import FILE, MemoryStore, gaussian_codec, make_artifact, make_manifest, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import nwc_core as nwc
from nwc_core.artifact import codec_cache
from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.writer import commit, put_object
from nwc_core.errors import FormatError, IntegrityError, NotFoundError, UnknownTensorError
from nwc_infra.stores.local import LocalStore

TENSORS = {
    "matrix": torch.randn(10, 6, generator=torch.Generator().manual_seed(1)),
    "half": torch.arange(30).reshape(5, 6).to(torch.float16),
    "brain": torch.arange(12).reshape(3, 2, 2).to(torch.bfloat16),
    "scalar": torch.tensor(-1.5, dtype=torch.float64),
    "empty": torch.empty(0, 3, dtype=torch.int32),
    "hollow": torch.empty(3, 0),
    "flags": torch.tensor([True, False, True]),
    "fp8": torch.arange(8.0).to(torch.float8_e4m3fn),
    "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "model.nwc")
    for key, data in make_artifact(TENSORS).objects.items():
        store.put(key, data)
    with nwc.open(tmp_path / "model.nwc") as artifact:
        assert artifact.keys() == list(artifact) == list(TENSORS)
        assert len(artifact) == len(TENSORS) and "matrix" in artifact and "x" not in artifact
        assert artifact.metadata() == {"format": "pt"}
        for name, tensor in TENSORS.items():
            assert same(artifact.get_tensor(name, device="cpu"), tensor), name
        with pytest.raises(UnknownTensorError, match=r"model\.nwc: no tensor named 'x'"):
            artifact.get_tensor("x")
        with pytest.raises(UnknownTensorError):
            artifact.get_slice("x")
    loaded = nwc.load(str(tmp_path / "model.nwc"))
    assert list(loaded) == list(TENSORS) and all(same(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_lossy_blocks_decode_as_the_codec_decodes_them() -> None:
    weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    artifact = nwc.open(make_artifact({"w": weight}, rows=48, bits=4.0))
    assert {row.coder for row in artifact.index} == {"nwc"}
    codec = gaussian_codec()
    wanted = torch.cat([codec.decode(codec.encode(weight[low : low + 48], 4.0)) for low in (0, 48, 96)])
    assert same(artifact.get_tensor("w"), wanted)
    assert same(artifact.get_slice("w")[40:100:7, 3], wanted[40:100:7, 3])
    row = artifact.index.blocks("w")[1]
    error = (wanted[48:96].double() - weight[48:96].double()).square().mean().item()
    assert row.mse == pytest.approx(error, rel=1e-6) and 3.5 < row.bits_per_weight < 5


def test_opening_takes_three_requests_and_the_codec_is_read_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_cache, "_codecs", type(codec_cache._codecs)())
    store = make_artifact(TENSORS)
    store.requests.clear()
    artifact = nwc.open(store)
    assert artifact.codec is nwc.open(store).codec
    kinds = [f"{verb} {key.split('-')[0]}" for verb, key in store.requests]
    assert kinds == ["get manifest.json", "get index", "get codec", "get manifest.json", "get index"]
    for number in range(20):
        other = nwc.Codec.of(gaussian_codec().coder, {"number": number})
        ref = put_object(store, "codec", other.to_bytes())
        assert codec_cache.CodecSource(ref, None, artifact.read_object, "x").get().digest == ref.sha256
    assert len(codec_cache._codecs) < 20


def test_a_codec_at_hand_must_be_the_right_one() -> None:
    store = make_artifact(TENSORS)
    del store.objects[next(key for key in store.objects if key.startswith("codec"))]
    assert same(nwc.open(store, codec=gaussian_codec()).get_tensor("half"), TENSORS["half"])
    other = nwc.Codec.of(gaussian_codec().coder, {"trained": "elsewhere"})
    with pytest.raises(FormatError, match="the codec given"):
        nwc.open(store, codec=other)


SHAPES = st.lists(st.integers(0, 7), min_size=0, max_size=4).map(tuple)
BOUND = st.none() | st.integers(-9, 9)
ITEM = st.integers(-8, 8) | st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 4)) | st.just(Ellipsis)

KEY = st.lists(ITEM, max_size=5).filter(lambda items: items.count(Ellipsis) < 2).map(tuple) | ITEM


@settings(max_examples=200, deadline=None)
@given(SHAPES, st.integers(1, 5), KEY)
def test_slices_are_those_of_torch(shape: tuple[int, ...], rows: int, key: object) -> None:
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.int16).reshape(shape)
    stored = nwc.open(make_artifact({"t": tensor}, rows=rows)).get_slice("t")
    assert stored.get_shape() == list(shape) and stored.get_dtype() == "I16"
    try:
        wanted = tensor[key]  # type: ignore[index]
    except IndexError:
        with pytest.raises(IndexError):
            stored[key]  # type: ignore[index]
    else:
        assert same(stored[key], wanted)  # type: ignore[index]
        assert stored[key].stride() == torch.empty(wanted.shape).stride()  # type: ignore[index]


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (slice(None, None, -1), ValueError),
        ((0, slice(5, 0, -1)), ValueError),
        (slice(None, None, 0), ValueError),
        (None, TypeError),
        (True, TypeError),
        ([0, 1], TypeError),
        ("a", TypeError),
        (torch.tensor([1, 2]), TypeError),
        (slice("a", None), TypeError),
        ((..., ...), IndexError),  # torch takes these, numpy does not
        (10, IndexError),
        (-11, IndexError),
    ],
)
def test_other_indices_are_refused(key: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        nwc.open(make_artifact(TENSORS)).get_slice("matrix")[key]  # type: ignore[index]


def test_a_slice_reads_and_decodes_only_the_blocks_that_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = nwc.Artifact.decode_bytes

    def counted(self: nwc.Artifact, row: BlockRow, *arguments: Any) -> torch.Tensor:
        decoded.append(row.start // 12)
        return original(self, row, *arguments)

    monkeypatch.setattr(nwc.Artifact, "decode_bytes", counted)
    store = make_artifact(TENSORS, rows=2)  # the matrix: blocks 0 to 2 in one payload, 3 and 4 in the next
    matrix = nwc.open(store).get_slice("matrix")
    for key, blocks, requests in [
        (slice(3, 5), [1, 2], 1),
        (7, [3], 1),
        (slice(4, 4), [], 0),
        (slice(0, 10, 8), [0, 1, 2, 3, 4], 2),
        (slice(5, 7), [2, 3], 2),
        (slice(8, 99), [4], 1),
        (-1, [4], 1),
    ]:
        store.requests.clear()
        decoded.clear()
        assert same(matrix[key], TENSORS["matrix"][key])
        assert (sorted(decoded), [verb for verb, _ in store.requests if verb == "range"]) == (
            blocks,
            ["range"] * requests,
        )


def test_pickled_artifacts_reopen_and_threads_share_one() -> None:
    artifact = pickle.loads(pickle.dumps(nwc.open(make_artifact(TENSORS, rows=2))))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(artifact.get_tensor, list(TENSORS) * 20))
    assert all(same(found, TENSORS[name]) for found, name in zip(read, list(TENSORS) * 20, strict=True))


DAMAGED = make_artifact({**TENSORS, "w": torch.randn(64, 32, generator=torch.Generator().manual_seed(3))}, 32, 3.0)
INTACT = nwc.load(DAMAGED)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(DAMAGED.objects)), st.integers(0, 2**32), st.integers(0, 7))
def test_a_flipped_bit_is_never_a_wrong_tensor(key: str, at: int, bit: int) -> None:
    codec_cache._codecs.clear()
    damaged = bytearray(DAMAGED.objects[key])
    damaged[at % len(damaged)] ^= 1 << bit
    store = MemoryStore({**DAMAGED.objects, key: bytes(damaged)})
    try:
        loaded = nwc.load(store)
    except FormatError as error:  # IntegrityError is one
        assert key in str(error)
    else:
        # Only the header of a payload is not needed for reading; checking the object as a whole finds it.
        assert key.startswith("payload") and all(same(loaded[name], INTACT[name]) for name in INTACT)
        artifact = nwc.open(store)
        with pytest.raises(IntegrityError, match=key):
            artifact.read_object(next(ref for ref in artifact.manifest.payloads if ref.object == key))


@pytest.mark.parametrize("kind", ["manifest", "index", "codec", "payload"])
@pytest.mark.parametrize("how", ["cut", "grown", "emptied", "gone"])
def test_objects_of_another_size(kind: str, how: str) -> None:
    codec_cache._codecs.clear()
    objects = dict(DAMAGED.objects)
    key = next(key for key in reversed(objects) if key.startswith(kind))
    data = objects.pop(key)
    if how != "gone":
        objects[key] = {"cut": data[:-1], "grown": data + b"x", "emptied": b""}[how]
    if (kind, how) == ("payload", "grown"):
        assert all(same(INTACT[name], tensor) for name, tensor in nwc.load(MemoryStore(objects)).items())
        return
    with pytest.raises(NotFoundError if how == "gone" else FormatError, match=key):
        nwc.load(MemoryStore(objects))


def test_a_damaged_block_is_named() -> None:
    store = make_artifact(TENSORS)
    row = nwc.open(store).index.blocks("matrix")[1]
    data = bytearray(store.objects[row.object])
    data[row.offset + row.length - 1] ^= 1
    store.objects[row.object] = bytes(data)
    with pytest.raises(IntegrityError, match=rf"{row.object}: tensor 'matrix', block \[24, 48\): found SHA-256"):
        nwc.open(store).get_tensor("matrix")
    assert same(nwc.open(store).get_slice("matrix")[:4], TENSORS["matrix"][:4])


def test_an_object_that_was_cut_is_named_with_the_first_block_lost() -> None:
    store = make_artifact(TENSORS, rows=2)
    artifact = nwc.open(store)
    row = artifact.index.blocks("matrix")[2]  # the last one in its payload, read in one request with two others
    cut = store.objects[row.object] = store.objects[row.object][:-1]
    with pytest.raises(
        IntegrityError,
        match=rf"{row.object}: tensor 'matrix', block \[24, 36\): found an object of {len(cut)} bytes; wanted",
    ):
        artifact.get_tensor("matrix")
    assert same(artifact.get_slice("matrix")[:4], TENSORS["matrix"][:4])


@pytest.mark.parametrize(
    "lie",
    [{"dtype": "I32"}, {"coder": "nwc"}, {"shape": (4, 3)}, {"shape": (2, 2)}, {"shape": (13,), "stop": 13}],
    ids=str,
)
def test_a_block_that_decodes_to_something_else_is_refused(lie: dict[str, object]) -> None:
    store = MemoryStore()
    rows, payloads = make_rows(store, {"t": torch.arange(12.0).reshape(3, 4)})
    total = 4 if lie.get("shape") == (2, 2) else 13 if "stop" in lie else 12
    rows = [dataclasses.replace(rows[0], **{"stop": total, **lie})]  # type: ignore[arg-type]
    commit(store, make_manifest(store, rows, payloads))
    with pytest.raises(FormatError, match=r"tensor 't', block \[0, \d+\): found"):
        nwc.open(store).get_tensor("t")


def test_blocks_need_rows_of_the_tensor() -> None:
    store = MemoryStore()
    parts = {"t": torch.arange(24.0).reshape(4, 3, 2)}
    rows, payloads = make_rows(store, parts, rows=2)
    turned = [dataclasses.replace(row, shape=(4, 2, 3)) for row in rows]
    commit(store, make_manifest(store, turned, payloads))
    with pytest.raises(FormatError, match=r"shape \[2, 3, 2\]"):
        nwc.open(store).get_tensor("t")


def test_an_index_with_another_digest_is_not_parsed() -> None:
    store = make_artifact(TENSORS)
    key = nwc.open(store).manifest.index.object
    store.objects[key] = write_index([])
    with pytest.raises(IntegrityError, match=key):
        nwc.open(store)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"manifest\.json"):
        nwc.open(tmp_path)
    assert FILE not in {path.name for path in tmp_path.iterdir()}
