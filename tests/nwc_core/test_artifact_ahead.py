"""Reading ahead, in order, as another type, into given memory: the same tensors, and an end to all threads."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from artifact_samples import MemoryStore, gaussian_codec, make_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

import nwc_core as nwc
from nwc_core.artifact.ahead import ahead
from nwc_core.artifact.ranges import plan_requests
from nwc_core.errors import IntegrityError, UnknownTensorError, UsageError
from nwc_core.matrices import Layout

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


def test_as_many_threads_as_were_asked_for_each_alone(coded: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most, alone = [0], [0], set()
    lock = threading.Lock()
    original = nwc.Codec.decode

    def noting(self: nwc.Codec, *arguments: Any) -> torch.Tensor:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            alone.add(torch.get_num_threads())
        result = original(self, *arguments)
        with lock:
            at_work[0] -= 1
        return result

    monkeypatch.setattr(nwc.Codec, "decode", noting)
    before = torch.get_num_threads()
    for threads in (1, 2):
        most[0] = 0
        found = dict(nwc.iter_tensors(coded, threads=threads, max_nbytes=300_000))
        assert 1 <= most[0] <= threads
        assert len(found) == 3
    assert alone == {1}
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="threads 0; wanted at least 1"):
        nwc.open(coded).iter_tensors(threads=0)


def test_whoever_stops_early_waits_for_little() -> None:
    store = make_artifact({str(i): torch.arange(100) for i in range(50)}, rows=100)
    tensors = nwc.open(store).iter_tensors(max_nbytes=1)
    assert next(tensors)[0] == "0"
    tensors.close()  # type: ignore[attr-defined]
    assert len(store.requests) < 12  # manifest, index, codec, and some windows of one tensor


def test_whoever_stops_early_does_not_wait_for_what_has_not_begun() -> None:
    class Slow(MemoryStore):
        def get_range(self, key: str, start: int, stop: int) -> bytes:
            time.sleep(0.02)
            return super().get_range(key, start, stop)

    store = Slow()
    store.objects = make_artifact(TENSORS, rows=2).objects
    artifact = nwc.open(store)
    names = ["ids", "big", "brain", "half"]
    everything = len(plan_requests(row for name in names for row in artifact.index.blocks(name)))
    tensors = artifact.iter_tensors(names, threads=1, max_nbytes=1)
    assert next(tensors)[0] == "ids"
    store.requests.clear()
    tensors.close()  # type: ignore[attr-defined]
    assert len(store.requests) <= 6 < everything / 2


def test_damage_is_an_error_at_its_place() -> None:
    store = make_artifact(TENSORS, rows=2)
    last = max(key for key in store.objects if key.startswith("payload-"))
    row = next(row for row in nwc.open(store).index if row.object == last)
    data = bytearray(store.objects[last])
    data[row.offset + row.length - 1] ^= 1
    store.objects[last] = bytes(data)
    for max_nbytes in (1, 1 << 28):  # windows of one tensor, and one window
        seen = []
        with pytest.raises(IntegrityError, match=repr(row.tensor)):
            for name, _ in nwc.iter_tensors(store, max_nbytes=max_nbytes):
                seen.append(name)
        assert seen == list(TENSORS)[: list(TENSORS).index(row.tensor)]
    artifact = nwc.open(store)
    before = [each for each in artifact.index if each.tensor != row.tensor]
    blocks = artifact.iter_blocks([*before, row])
    assert sum(1 for _ in zip(before, blocks, strict=False)) == len(before)
    with pytest.raises(IntegrityError, match=repr(row.tensor)):
        next(blocks)


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
    double = nwc.open(store, dtype=torch.float64)
    for some in (slice(3, 20), slice(5, 5), 7):
        assert same(double.get_slice("brain")[some], TENSORS["brain"][some].double())
        assert same(double.get_slice("ids")[some], TENSORS["ids"][some])
    assert double.get_slice("brain").get_dtype() == "BF16"
    one = nwc.open(store, dtype=torch.float16).get_tensor("big", dtype=torch.float32)
    assert same(one, TENSORS["big"])


def test_on_another_device(coded: MemoryStore) -> None:
    with nwc.open(coded, device="meta") as artifact:
        for name, tensor in nwc.load(coded, dtype=torch.float16).items():
            for found in (
                artifact.get_tensor(name, dtype=torch.float16),
                dict(artifact.iter_tensors(dtype=torch.float16))[name],
                nwc.load(coded, "meta", dtype=torch.float16)[name],
            ):
                assert (found.device.type, found.shape, found.dtype) == ("meta", tensor.shape, torch.float16)
            assert artifact.get_tensor(name, device="cpu", dtype=torch.float16).equal(tensor)
            assert artifact.get_slice(name)[1:3, 2:5].shape == (2, 3)
            assert artifact.get_slice(name)[3:3].device.type == "meta"


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
            assert all(given_room)
        given_room.clear()
        artifact.get_tensor("big", threads=1)  # the blocks of a new tensor, too
        artifact.get_slice("big")[40:120]
        assert len(given_room) > 4
        assert all(given_room)
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
    for wanted in (
        weight,
        weight.float(),
        weight.half(),
        weight.double(),
        torch.arange(64).reshape(8, 8),
        weight.reshape(2, 2, 32, 32).float(),
    ):
        encoded = codec.encode(wanted, 4.0)
        for shape in (wanted.shape, (wanted.numel(),)):
            out = torch.empty(shape, dtype=wanted.dtype)
            found = codec.decode(encoded, out=out)
            assert found.data_ptr() == out.data_ptr()
            assert same(found, codec.decode(encoded))
    turned = codec.encode(weight.float().reshape(2, 2, 32, 32), 4.0, layout=Layout((3, 2, 0, 1), 0, 1))
    assert turned.coder == "nwc"
    assert same(codec.decode(turned, out=torch.empty(2, 2, 32, 32)), codec.decode(turned))
    with pytest.raises(UsageError, match=r"coded tensor: found out of torch.float32 \[2, 32, 64\] on cpu; wanted"):
        codec.decode(turned, out=torch.empty(2, 32, 64))


def test_many_threads_at_once(coded: MemoryStore) -> None:
    artifact = nwc.open(coded)
    wanted = nwc.load(coded)
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda _: dict(artifact.iter_tensors(max_nbytes=2000)), range(12)):
            assert all(same(found[name], tensor) for name, tensor in wanted.items())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 40), st.integers(0, 35))
def test_windows_keep_order_and_bound(sizes: list[int], limit: int, stop: int) -> None:
    lock, begun = threading.Lock(), [0]
    found: list[int] = []

    def work(some: list[int]) -> list[int]:
        with lock:
            begun[0] += sum(sizes[i] for i in some)
            taken = sum(sizes[: len(found) + 1])  # one may be on its way to the loop below
            assert begun[0] - taken <= max([limit, *(sizes[i] for i in some)])
        return some

    ended: list[bool] = []
    results = ahead(range(len(sizes)), lambda i: sizes[i], work, lambda: ended.append(True), limit)
    for result in results:
        with lock:
            found.append(result)
        if len(found) == stop:
            results.close()  # type: ignore[attr-defined]
            break
    assert found == list(range(min(len(sizes), stop) if stop else len(sizes)))
    assert ended == [True]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 40), st.data())
def test_an_error_comes_at_its_place(sizes: list[int], limit: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, len(sizes) - 1))

    def work(some: list[int]) -> list[int]:
        if bad in some:
            raise ValueError(f"number {bad}")
        return some

    found = []
    with pytest.raises(ValueError, match=f"number {bad}$"):
        for result in ahead(range(len(sizes)), lambda i: sizes[i], work, lambda: None, limit):
            found.append(result)
    assert found == list(range(bad))


def test_a_failure_that_passes_is_no_error() -> None:
    failures = iter([True])

    def work(some: list[int]) -> list[int]:
        if next(failures, False):
            raise ValueError("once")
        return some

    assert list(ahead(range(20), lambda i: 1, work, lambda: None, 12)) == list(range(20))


def test_results_are_forgotten_when_they_are_taken() -> None:
    class Result:
        pass

    results = ahead(range(9), lambda i: 1, lambda some: [Result() for _ in some], lambda: None, 9)
    seen = [weakref.ref(result) for result in (next(results), next(results), next(results), next(results))]
    gc.collect()
    assert [ref() for ref in seen] == [None] * 4
    results.close()  # type: ignore[attr-defined]
