"""Which ranges are read, and what reading costs in requests and bytes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from artifact_samples import FILE, MemoryStore, make_manifest, make_rows
from block_rows import block
from hypothesis import given
from hypothesis import strategies as st

import nwc_core as nwc
from nwc_core.artifact import codec_cache
from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.manifest import WeightFile
from nwc_core.artifact.payload import build_payload
from nwc_core.artifact.ranges import MAX_GAP_NBYTES, MAX_REQUEST_NBYTES, Request, plan_requests
from nwc_core.artifact.writer import commit, put_object
from nwc_core.errors import UnknownTensorError, UsageError

KIB, MIB = 1 << 10, 1 << 20


def spans(requests: list[Request]) -> list[tuple[int, int]]:
    return [(request.start, request.stop) for request in requests]


SIZE = st.integers(1, 40) | st.integers(1, 200 * KIB) | st.integers(1, 20 * MIB)
GAP = st.just(0) | st.integers(0, 3) | st.integers(0, 2 * MAX_GAP_NBYTES)


@st.composite
def blocks(draw: st.DrawFn) -> list[BlockRow]:
    """Blocks of a few payloads that do not overlap, in any order."""
    found = []
    for key in "abc"[: draw(st.integers(1, 3))]:
        at = 0
        for gap, length in draw(st.lists(st.tuples(GAP, SIZE), max_size=12)):
            found.append(block(at + gap, length, key))
            at += gap + length
    return draw(st.permutations(found))


@given(blocks())
def test_every_block_is_read_once_within_the_bounds_and_no_request_is_needless(rows: list[BlockRow]) -> None:
    requests = plan_requests(rows)
    covered = [row for request in requests for row in request.blocks]
    assert sorted(map(id, covered)) == sorted(map(id, rows))
    for request in requests:
        assert {row.object for row in request.blocks} == {request.object}
        assert all(
            a.offset + a.length <= b.offset <= a.offset + a.length + MAX_GAP_NBYTES for a, b in pairwise(request.blocks)
        )
        assert (request.start, request.stop) == (
            request.blocks[0].offset,
            request.blocks[-1].offset + request.blocks[-1].length,
        )
        assert request.nbytes <= MAX_REQUEST_NBYTES or len(request.blocks) == 1
        assert request.nbytes <= 1.05 * sum(row.length for row in request.blocks)
    assert list(dict.fromkeys(row.object for row in rows)) == list(dict.fromkeys(r.object for r in requests))
    for a, b in pairwise(requests):
        if a.object == b.object:  # the next block would have broken a bound
            joined = Request((*a.blocks, b.blocks[0]))
            assert (
                b.start - a.stop > MAX_GAP_NBYTES
                or joined.nbytes > MAX_REQUEST_NBYTES
                or joined.nbytes > 1.05 * sum(row.length for row in joined.blocks)
            )


def test_the_bounds_themselves() -> None:
    assert plan_requests([]) == []
    assert spans(plan_requests([block(0, 2 * MIB), block(2 * MIB + 64 * KIB, 9)])) == [(0, 2 * MIB + 64 * KIB + 9)]
    assert len(plan_requests([block(0, 2 * MIB), block(2 * MIB + 64 * KIB + 1, 9)])) == 2
    assert spans(plan_requests([block(0, 50), block(55, 50)])) == [(0, 105)]
    assert len(plan_requests([block(0, 50), block(56, 50)])) == 2
    assert spans(plan_requests([block(0, 8 * MIB), block(8 * MIB, 8 * MIB)])) == [(0, 16 * MIB)]
    assert len(plan_requests([block(0, 8 * MIB), block(8 * MIB, 8 * MIB + 1)])) == 2
    assert spans(plan_requests([block(5, 99 * MIB)])) == [(5, 5 + 99 * MIB)]


class CountingStore(MemoryStore):
    """Counts the bytes, too."""

    nbytes = 0

    def get(self, key: str) -> bytes:
        data = super().get(key)
        self.nbytes += len(data)
        return data

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        self.nbytes += stop - start
        return super().get_range(key, start, stop)

    def cost(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        found = len(self.requests), self.nbytes
        self.requests.clear()
        self.nbytes = 0
        return found


def packed(tensors: dict[str, torch.Tensor], rows: int, bits: float | None, blocks_each: int) -> CountingStore:
    """A committed artifact with `blocks_each` blocks in each payload, not opened in this process yet."""
    scratch, store = MemoryStore(), CountingStore()
    old, new, payloads = make_rows(scratch, tensors, rows, bits)[0], [], []
    for first in range(0, len(old), blocks_each):
        group = old[first : first + blocks_each]
        coded = [scratch.objects[row.object][row.offset : row.offset + row.length] for row in group]
        payload = build_payload(
            [(f"{row.tensor}#{first + i}", data) for i, (row, data) in enumerate(zip(group, coded, strict=True))]
        )
        payloads.append(put_object(store, "payload", payload.data))
        new += [
            dataclasses.replace(row, object=payloads[-1].object, offset=offset)
            for row, (offset, _) in zip(group, payload.ranges, strict=True)
        ]
    manifest = make_manifest(store, new, payloads)
    size = sum(tensor.nbytes for tensor in tensors.values())
    commit(store, manifest.model_copy(update={"weight_files": [WeightFile(path=FILE, size=size, metadata={})]}))
    codec_cache._codecs.clear()
    store.cost()
    return store


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def large() -> CountingStore:
    """199 small tensors and, in their middle, one of 1,024 rows in blocks of 192; 50 blocks in each payload."""
    names = [f"model.layers.{i // 4}.block.{i % 4}.weight" for i in range(199)]
    tensors = {name: normal(48, 32, seed=i) for i, name in enumerate(names[:97])}
    tensors["tall"] = normal(1024, 64, seed=1000)
    tensors |= {name: normal(48, 32, seed=i) for i, name in enumerate(names[97:], 97)}
    return packed(tensors, 192, None, 50)


def test_what_one_tensor_of_many_costs(large: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[BlockRow] = []
    original = nwc.Artifact.decode_bytes

    def counted(self: nwc.Artifact, row: BlockRow, *arguments: Any) -> torch.Tensor:
        decoded.append(row)
        return original(self, row, *arguments)

    monkeypatch.setattr(nwc.Artifact, "decode_bytes", counted)
    codec_cache._codecs.clear()
    large.cost()
    artifact = nwc.open(large)
    assert len(artifact) == 200 and artifact.codec
    requests, nbytes = large.cost()
    assert requests <= 3 and nbytes <= 200_000
    assert len(artifact.index.blocks("tall")) == 6
    for name in artifact:
        payload = sum(row.length for row in artifact.index.blocks(name))
        whole = artifact.get_tensor(name)
        requests, nbytes = large.cost()
        assert requests <= (2 if name == "tall" else 1) and payload <= nbytes <= 1.05 * payload
    assert len(decoded) == 205
    whole = artifact.get_tensor("tall")
    for first in (0, 150, 600, 1024 - 64):
        decoded.clear()
        large.cost()
        assert torch.equal(artifact.get_slice("tall")[first : first + 64], whole[first : first + 64])
        requests, nbytes = large.cost()
        assert 1 <= len(decoded) <= 2 and requests <= 2 and nbytes <= 1.05 * sum(row.length for row in decoded)


def test_loading_reads_each_payload_once_and_the_codec_once(large: CountingStore) -> None:
    artifact = nwc.open(large)
    one_by_one = {name: artifact.get_tensor(name, threads=1) for name in artifact}
    codec_cache._codecs.clear()
    large.cost()
    loaded = nwc.load(large, threads=3)
    keys = [key.split("-")[0] for _, key in large.requests]
    requests, nbytes = large.cost()
    assert (requests, keys[:3], set(keys[3:])) == (3 + 5, ["manifest.json", "index", "codec"], {"payload"})
    assert nbytes <= sum(map(len, large.objects.values()))
    assert list(loaded) == list(one_by_one)
    assert all(torch.equal(loaded[name], one_by_one[name]) for name in loaded)


def test_several_tensors_share_requests_and_a_wrong_name_costs_none(large: CountingStore) -> None:
    artifact = nwc.open(large)
    names = artifact.keys()
    assert artifact.codec
    large.cost()
    some = artifact.get_tensors([names[7], names[5], names[6], names[7]])
    assert list(some) == [names[7], names[5], names[6]] and large.cost()[0] == 1
    with pytest.raises(UnknownTensorError, match="'x'"):
        artifact.get_tensors([names[0], "x"])
    assert artifact.get_tensors([]) == {} and large.cost() == (0, 0)


@pytest.mark.parametrize("threads", [1, 2, 5, None])
def test_the_result_does_not_depend_on_the_threads(threads: int | None) -> None:
    weight = normal(1100, 1024, seed=5)  # more than a million weights: two segments
    store = packed({"whole": weight}, 2000, 3.0, 9)
    in_blocks = packed({"cut": weight}, 100, None, 2)
    assert torch.equal(nwc.open(store).get_tensor("whole", threads=threads), nwc.open(store).get_tensor("whole"))
    assert torch.equal(nwc.open(in_blocks).get_tensor("cut", threads=threads), weight)
    with pytest.raises(UsageError, match="threads 0"):
        nwc.load(store, threads=0)
