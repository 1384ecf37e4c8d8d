"""Reading ahead, in order, as another type, into given memory: the same tensors, and an end to all threads."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from artifact_samples import MemoryStore, gaussian_codec, make_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

import nwc_core as nwc
from nwc_core.artifact.ahead import ahead
from nwc_core.errors import IntegrityError, UnknownTensorError, UsageError

TENSORS = {
    "big": torch.randn(64, 32, generator=torch.Generator().manual_seed(1)),
    "brain": torch.randn(40, 32, generator=torch.Generator().manual_seed(2)).bfloat16(),
    "half": torch.randn(33, 32, generator=torch.Generator().manual_seed(3)).half(),
    "ids": torch.arange(50),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5),
}


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("nwc-")]


@pytest.fixture(scope="module")
def coded() -> MemoryStore:
    """Coded lossily, in many blocks."""
    weights = {name: TENSORS[name].repeat(4, 2) for name in ("big", "brain", "half")}
    return make_artifact(weights, rows=40, bits=6.0)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.equal(b)


@pytest.mark.parametrize("max_nbytes", [1, 5000, 1 << 28])
def test_tensors_in_stored_order_and_in_another(max_nbytes: int) -> None:
    store = make_artifact(TENSORS, rows=7)
    found = list(nwc.iter_tensors(store, max_nbytes=max_nbytes))
    assert [name for name, _ in found] == list(TENSORS)
    assert all(same(tensor, TENSORS[name]) for name, tensor in found)
    artifact = nwc.open(store)
    names = ["scalar", "big", "ids"]
    again = dict(artifact.iter_tensors(names, threads=1, max_nbytes=max_nbytes))
    assert list(again) == names
    assert all(same(tensor, TENSORS[name]) for name, tensor in again.items())
    with pytest.raises(UnknownTensorError):
        artifact.iter_tensors(["big", "small"])
    rows = list(artifact.index)[::-1]
    for row, block in zip(rows, artifact.iter_blocks(rows, max_nbytes=max_nbytes), strict=True):
        assert same(block.reshape(-1), TENSORS[row.tensor].reshape(-1)[row.start : row.stop])


def test_whoever_stops_early_waits_for_little() -> None:
    store = make_artifact({str(i): torch.arange(100) for i in range(50)}, rows=100)
    tensors = nwc.open(store).iter_tensors(max_nbytes=1)
    assert next(tensors)[0] == "0"
    tensors.close()  # type: ignore[attr-defined]
    assert len(store.requests) < 12  # manifest, index, codec, and some windows of one tensor


def test_damage_is_an_error_at_its_place() -> None:
    store = make_artifact(TENSORS, rows=2)
    last = max(key for key in store.objects if key.startswith("payload-"))
    row = next(row for row in nwc.open(store).index if row.object == last)
    data = bytearray(store.objects[last])
    data[row.offset + row.length - 1] ^= 1
    store.objects[last] = bytes(data)
    seen = []
    with pytest.raises(IntegrityError, match=repr(row.tensor)):
        for name, _ in nwc.iter_tensors(store, max_nbytes=1):
            seen.append(name)
    assert seen == list(TENSORS)[: list(TENSORS).index(row.tensor)]


def test_floats_are_converted_and_nothing_else() -> None:
    store = make_artifact(TENSORS, rows=7)
    for found in (
        nwc.load(store, dtype=torch.float16),
        nwc.open(store).get_tensors(TENSORS, dtype=torch.float16),
        dict(nwc.open(store, dtype=torch.float16).iter_tensors()),
        dict(pickle.loads(pickle.dumps(nwc.open(store, dtype=torch.float16))).iter_tensors()),
        {name: nwc.open(store, dtype=torch.float16).get_tensor(name) for name in TENSORS},
    ):
        for name, tensor in TENSORS.items():
            assert same(found[name], tensor.half() if tensor.is_floating_point() else tensor)
    rows = nwc.open(store, dtype=torch.float64).get_slice("brain")[3:20]
    assert same(rows, TENSORS["brain"][3:20].double())
    one = nwc.open(store, dtype=torch.float16).get_tensor("big", dtype=torch.float32)
    assert same(one, TENSORS["big"])


def test_into_given_memory(coded: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    given_room: list[bool] = []
    original = nwc.Codec.decode

    def noting(self: nwc.Codec, encoded: Any, threads: int, where: str, out: torch.Tensor | None) -> torch.Tensor:
        result = original(self, encoded, threads, where, out)
        given_room.append(out is not None and out.data_ptr() == result.data_ptr())
        return result

    monkeypatch.setattr(nwc.Codec, "decode", noting)
    with nwc.open(coded) as artifact:
        for name in artifact:
            wanted = artifact.get_tensor(name, threads=1)
            given_room.clear()
            out = torch.full_like(wanted, 7.0)
            assert artifact.get_tensor(name, out=out) is out
            assert same(out, wanted)
            assert all(given_room) == (wanted.dtype != torch.float16)
        # All blocks but the first of a new tensor are decoded in place, too.
        given_room.clear()
        artifact.get_tensor("big", threads=1)
        assert given_room == [False] + [True] * (len(given_room) - 1)
        part = torch.zeros(272, 64)
        artifact.get_tensor("big", out=part[8:264])
        assert same(part[8:264], artifact.get_tensor("big"))
        assert not part[:8].any()
        assert not part[264:].any()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (
            torch.zeros(256, 63),
            r"'big': found out of torch.float32 \[256, 63\] on cpu; wanted torch.float32 \[256, 64\]",
        ),
        (torch.zeros(256, 64).double(), "found out of torch.float64"),
        (torch.zeros(64, 256).T, "one with gaps"),
        (torch.zeros(256, 64, requires_grad=True), "requires grad"),
        (torch.zeros(256, 64, device="meta"), "on meta"),
    ],
)
def test_memory_that_does_not_fit_is_refused(coded: MemoryStore, out: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nwc.open(coded).get_tensor("big", out=out)
    with pytest.raises(UsageError, match="found out and device or dtype"):
        nwc.open(coded).get_tensor("big", "cpu", out=torch.zeros(256, 64))


def test_the_codec_decodes_into_given_memory() -> None:
    codec = gaussian_codec()
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    encoded = codec.encode(weight, 4.0)
    out = torch.empty(64, 64, dtype=torch.bfloat16)
    assert codec.decode(encoded, out=out).data_ptr() == out.data_ptr()
    assert out.equal(codec.decode(encoded))
    lossless = codec.encode(torch.arange(64).reshape(8, 8), 4.0)
    assert codec.decode(lossless, out=torch.empty(8, 8, dtype=torch.int64)).equal(torch.arange(64).reshape(8, 8))
    assert replace(encoded).body == encoded.body


def test_many_threads_at_once(coded: MemoryStore) -> None:
    artifact = nwc.open(coded)
    wanted = nwc.load(coded)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: dict(artifact.iter_tensors(max_nbytes=2000)), range(12)):
            assert all(same(found[name], tensor) for name, tensor in wanted.items())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 40), st.integers(0, 35))
def test_windows_keep_order_and_bound(sizes: list[int], limit: int, stop: int) -> None:
    lock, begun, taken = threading.Lock(), [0], [0]

    def work(some: list[int]) -> list[int]:
        with lock:
            begun[0] += sum(sizes[i] for i in some)
            assert begun[0] - taken[0] <= max(limit, 3 * 9)
        return some

    found = []
    results = ahead(range(len(sizes)), lambda i: sizes[i], work, limit)
    for result in results:
        with lock:
            taken[0] += sizes[result]
        found.append(result)
        if len(found) == stop:
            results.close()  # type: ignore[attr-defined]
            break
    assert found == list(range(min(len(sizes), stop) if 0 < stop <= len(sizes) else len(sizes)))
