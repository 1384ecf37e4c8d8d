"""Payloads: the exact bytes, what the safetensors library makes of them, and headers that lie."""

from __future__ import annotations

import dataclasses

import pytest
import safetensors
import torch
from artifact_samples import MemoryStore, make_rows
from hypothesis import given
from hypothesis import strategies as st

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.payload import build_payload, check_payload
from nwc_core.errors import FormatError


def test_exact_bytes() -> None:
    payload = build_payload([("w#0", b"abc"), ("w#1", b""), ("ü#0", b"de")])
    header = (
        '{"__metadata__":{"format":"nwc-payload","version":"1"},'
        '"w#0":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},'
        '"w#1":{"dtype":"U8","shape":[0],"data_offsets":[3,3]},'
        '"ü#0":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    assert payload.data == len(header).to_bytes(8, "little") + header + b"abcde"
    start = 8 + len(header)
    assert payload.ranges == [(start, 3), (start + 3, 0), (start + 3, 2)]


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.binary(max_size=64), max_size=8)
)
def test_the_safetensors_library_opens_it(blocks: dict[str, bytes]) -> None:
    blocks.pop("__metadata__", None)
    payload = build_payload(list(blocks.items()))
    assert {name: bytes(entry["data"]) for name, entry in safetensors.deserialize(payload.data)} == blocks
    for (offset, length), data in zip(payload.ranges, blocks.values(), strict=True):
        assert payload.data[offset : offset + length] == data


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="w#0"):
        build_payload([("w#0", b"a"), ("w#0", b"b")])


@pytest.fixture(scope="module")
def stored() -> tuple[bytes, list[BlockRow]]:
    """One payload of three blocks, two of them of one tensor, and its rows."""
    store = MemoryStore()
    rows, payloads = make_rows(store, {"a": torch.arange(8.0), "b": torch.arange(3)})
    return store.objects[payloads[0].object], rows


def test_payload_and_index_agree(stored: tuple[bytes, list[BlockRow]]) -> None:
    data, rows = stored
    check_payload(data, rows)
    check_payload(data, reversed(rows))


@pytest.mark.parametrize("change", ["missing row", "other tensor", "other length", "other place", "other order", "cut"])
def test_disagreement_is_found(stored: tuple[bytes, list[BlockRow]], change: str) -> None:
    data, rows = stored
    a0, a1, b0 = rows
    changed = {
        "missing row": [a0, a1],
        "other tensor": [a0, a1, dataclasses.replace(b0, tensor="c")],
        "other length": [a0, a1, dataclasses.replace(b0, length=b0.length - 1)],
        "other place": [a0, a1, dataclasses.replace(b0, offset=b0.offset + 1)],
        "other order": [dataclasses.replace(a0, start=4, stop=8), dataclasses.replace(a1, start=0, stop=4), b0],
        "cut": rows,
    }[change]
    with pytest.raises(FormatError, match=r"^a payload"):
        check_payload(data[:-1] if change == "cut" else data, changed, "a payload")


@pytest.mark.parametrize("name", ["a", "a#", "a#-1", "a#01", "a#1x", "a#٣", "a#" + "9" * 30, "b#0"])
def test_block_names_are_exact(name: str) -> None:
    payload = build_payload([(name, b"xy")])
    row = BlockRow("a", "U8", (2,), "f", 0, 2, "raw", "p", payload.ranges[0][0], 2, bytes(32), bytes(32), 0, 0.0)
    with pytest.raises(FormatError):
        check_payload(payload.data, [row])
