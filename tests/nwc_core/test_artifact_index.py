"""The Parquet index: round trip, fixed options, rows that lie, and files built to exhaust their reader."""

from __future__ import annotations

import dataclasses
import io
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from artifact_samples import FILE, MemoryStore, make_manifest, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from nwc_core.artifact.index import ROWS_PER_GROUP, BlockRow, Index, read_index, write_index
from nwc_core.artifact.index_checks import MAX_SHARING
from nwc_core.artifact.manifest import Manifest
from nwc_core.artifact.parquet_guard import Chunk, page_sizes
from nwc_core.errors import FormatError

TENSORS = {
    "embed": torch.arange(40.0).reshape(10, 4),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "conv": torch.arange(54).reshape(3, 2, 3, 3),
}
STORE = MemoryStore()
ROWS, PAYLOADS = make_rows(STORE, TENSORS)
MANIFEST = make_manifest(STORE, ROWS, PAYLOADS)
DATA = write_index(ROWS)


def test_round_trip() -> None:
    index = read_index(DATA, MANIFEST, "index")
    assert list(index) == ROWS
    assert index.names() == list(TENSORS)
    assert [(row.start, row.stop) for row in index.blocks("embed")] == [(0, 16), (16, 32), (32, 40)]
    assert len(index) == len(ROWS) and "conv" in index and "cov" not in index
    assert index.blocks("embed")[0].bits_per_weight == 8 * ROWS[0].length / 16
    assert read_index(write_index([]), empty_manifest(), "index").names() == []


def empty_manifest() -> Manifest:
    return make_manifest(MemoryStore(), [], [])


def test_equal_rows_give_equal_bytes_with_every_option_as_specified() -> None:
    many = [dataclasses.replace(ROWS[0], tensor=f"t{i}") for i in range(ROWS_PER_GROUP + 1)]
    data = write_index(many)
    assert data == write_index(list(many))
    meta = pq.read_metadata(io.BytesIO(data))
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [ROWS_PER_GROUP, 1]
    assert meta.format_version == "2.6" and meta.metadata is None
    columns = {meta.row_group(0).column(i).path_in_schema: meta.row_group(0).column(i) for i in range(meta.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert {name for name, column in columns.items() if column.is_stats_set} == {"tensor", "start"}
    dictionary = {name for name, column in columns.items() if column.has_dictionary_page}
    assert dictionary == {"tensor", "dtype", "file", "coder", "object", "shape.list.element"}
    assert all(column.has_offset_index for column in columns.values())


def test_other_tools_read_it() -> None:
    table = pq.read_table(io.BytesIO(DATA))
    assert table.column("tensor").to_pylist() == [row.tensor for row in ROWS]
    assert table.column("shape").to_pylist()[-1] == [3, 2, 3, 3]


LIES: list[tuple[str, int, dict[str, Any]]] = [
    ("dtype", 0, {"dtype": "F33"}),
    ("dtype", 1, {"dtype": "I32"}),
    ("coder", 0, {"coder": "gzip"}),
    ("shape", 0, {"shape": (-10, -4)}),
    ("shape", 0, {"shape": (0, 1 << 40, 1 << 40)}),
    ("shape", 0, {"shape": (1 << 62, 4)}),
    ("shape", 0, {"shape": (1,) * 65}),
    ("shape", 1, {"shape": (40,)}),
    ("file", 1, {"file": "other.safetensors"}),
    ("start", 0, {"start": 1}),
    ("start", 0, {"start": -16}),
    ("start", 1, {"start": 15}),
    ("start", 1, {"start": 17}),
    ("stop", 1, {"start": 16, "stop": 16}),
    ("stop", 2, {"stop": 39}),
    ("stop", 2, {"stop": 41}),
    ("object", 0, {"object": "manifest.json"}),
    ("object", 0, {"object": f"payload-{'0' * 32}.safetensors"}),
    ("offset", 0, {"offset": -1}),
    ("offset", 0, {"offset": 1 << 62}),
    ("length", 0, {"length": 0}),
    ("length", 0, {"length": -5}),
    ("length", 0, {"length": 1 << 62}),
    ("offset", 1, {"offset": ROWS[0].offset}),
    ("side_nbytes", 0, {"side_nbytes": -1}),
    ("side_nbytes", 0, {"side_nbytes": 1 << 20}),
    ("mse", 5, {"mse": 0.5}),
    ("mse", 0, {"coder": "nwc", "mse": float("nan")}),
    ("mse", 0, {"coder": "nwc", "mse": -1.0}),
    ("row 0.*stop", 1, {"tensor": "other"}),
    ("a second time", 4, {"tensor": "embed"}),
]


@pytest.mark.parametrize(("wanted", "at", "lie"), LIES)
def test_a_row_that_lies_is_refused(wanted: str, at: int, lie: dict[str, Any]) -> None:
    rows = list(ROWS)
    rows[at] = dataclasses.replace(rows[at], **lie)
    with pytest.raises(FormatError, match=f"^x.parquet: .*{wanted}"):
        read_index(write_index(rows), MANIFEST, "x.parquet")


def with_rows(rows: list[BlockRow], **counts: int) -> tuple[bytes, Manifest]:
    found = MANIFEST.counts.model_copy(update=counts)
    return write_index(rows), MANIFEST.model_copy(update={"counts": found})


@pytest.mark.parametrize(
    ("wanted", "rows", "counts"),
    [
        ("tensors", ROWS, {"tensors": 5}),
        ("weights", ROWS, {"weights": 1}),
        ("blocks", ROWS, {"blocks": 1}),
        ("tensors", ROWS[:-1], {}),
        ("start", ROWS[1:], {}),
        ("stop.*the end", [*ROWS[:2], *ROWS[3:]], {}),
        ("a second time", [*ROWS, *ROWS[:3]], {}),
        ("stop", [*ROWS[:5], ROWS[4], *ROWS[5:]], {}),
    ],
)
def test_rows_and_counts_that_disagree(wanted: str, rows: list[BlockRow], counts: dict[str, int]) -> None:
    data, manifest = with_rows(list(rows), **counts)
    with pytest.raises(FormatError, match=wanted):
        read_index(data, manifest, "index")


def test_more_weights_than_the_weight_file_had_are_refused() -> None:
    small = MANIFEST.weight_files[0].model_copy(update={"size": 100})
    with pytest.raises(FormatError, match=FILE):
        read_index(DATA, MANIFEST.model_copy(update={"weight_files": [small]}), "index")
    with pytest.raises(FormatError, match="a weight file of the manifest"):
        read_index(DATA, MANIFEST.model_copy(update={"weight_files": []}), "index")


def table(rows: list[BlockRow] = ROWS) -> pa.Table:
    return pq.read_table(io.BytesIO(write_index(rows)))


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **{"compression": "zstd", "store_schema": False, **options})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("wanted", "data"),
    [
        ("columns", as_parquet(table().drop_columns(["mse"]))),
        ("columns", as_parquet(table().append_column("more", pa.array(range(len(ROWS)))))),
        ("columns", as_parquet(table().select(table().column_names[::-1]))),
        ("columns", as_parquet(table().cast(pa.schema([f.with_nullable(True) for f in table().schema])))),
        ("columns", as_parquet(pa.table({"x" * 100_000: [1]}))),
        ("compression 0", as_parquet(table(), compression="none")),
        ("compression 1", as_parquet(table(), compression="snappy")),
        ("encoding 7", as_parquet(table(), use_dictionary=False, column_encoding={"tensor": "DELTA_BYTE_ARRAY"})),
        ("type 3", as_parquet(table(), data_page_version="2.0")),
        ("Parquet", b""),
        ("Parquet", b"PAR1PAR1"),
        ("Parquet", b"PAR1" + (1 << 31).to_bytes(4, "little") + b"PAR1"),
        ("Parquet", b"PAR1\xff\xff\xff\xff\x04\0\0\0PAR1"),
        ("Parquet", DATA[:-9]),
    ],
)
def test_other_parquet_files_are_refused(wanted: str, data: bytes) -> None:
    with pytest.raises(FormatError, match=f"(?s)^x.parquet.*{wanted}") as caught:
        read_index(data, MANIFEST, "x.parquet")
    assert len(str(caught.value)) < 2000


def bomb_of_text() -> bytes:
    """One name of 24 MB."""
    return write_index([dataclasses.replace(ROWS[0], tensor="a" * 24_000_000)])


def bomb_of_rows() -> bytes:
    """Three million equal rows, every column a dictionary of one value."""
    one = table(ROWS[:1])
    columns = []
    for field in one.schema:
        value = one.column(field.name).combine_chunks()
        columns.append(value.take(pa.array([0] * 1_500_000)))
    many = pa.Table.from_arrays(columns, schema=one.schema)
    return as_parquet(many, use_dictionary=True, compression_level=19, row_group_size=1_500_000)


@pytest.mark.parametrize("bomb", [bomb_of_text, bomb_of_rows])
def test_a_bomb_is_refused_before_it_is_unpacked(bomb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bomb()
    assert len(data) < 500_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(FormatError, match="at most"):
        read_index(data, MANIFEST, "index")


def page(kind: int, unpacked: int, packed: int, values: int) -> bytes:
    """A page header in Thrift's compact protocol."""

    def zigzag(number: int) -> bytes:
        number, out = number << 1, bytearray()
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*out, number])

    inner = b"\x15" + zigzag(values) + b"\x15\x00\x00"  # PLAIN
    skip = 5 - 3 if kind == 0 else 7 - 3
    return b"".join(
        [
            b"\x15",
            zigzag(kind),
            b"\x15",
            zigzag(unpacked),
            b"\x15",
            zigzag(packed),
            bytes([skip << 4 | 12]),
            inner,
            b"\0",
        ]
    )


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (page(0, 2**31 - 1, 0, 3), [2**31 - 1]),  # the size that a reader would allocate is the one that is counted
        (page(0, 10, 1, 3), None),  # more bytes than the chunk has
        (page(0, 10, 0, 4), None),  # more values than the chunk has
        (page(0, 10, 0, 2), None),  # fewer
        (page(2, 10, 0, 2**31 - 1) + page(0, 1, 0, 3), None),
        (page(2, 10, 0, 3) + page(0, 1, 0, 3), [10, 1]),
        (page(0, 10, 0, 3) + page(2, 10, 0, 3), None),  # a dictionary after data
        (page(1, 10, 0, 3), None),
        (b"\x1c" * 20, None),  # structs without end
        (b"\x15\xff" * 20, None),
        (b"\x19\xfc\xff\xff\xff\xff\x07", None),  # a list of two thousand million structs
        (b"\x00", None),
    ],
)
def test_page_headers(header: bytes, wanted: list[int] | None) -> None:
    chunk = Chunk(4, 4 + len(header), 3)
    if wanted is not None:
        assert page_sizes(b"PAR1" + header, chunk, "x") == wanted
    else:
        with pytest.raises(FormatError):
            page_sizes(b"PAR1" + header, chunk, "x")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_damage_that_got_past_the_digest_costs_no_memory(flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(DATA)
    for at, mask in flips:
        damaged[at] ^= mask
    with suppress(FormatError):
        assert isinstance(read_index(bytes(damaged), MANIFEST, "index"), Index)
    assert pa.default_memory_pool().max_memory() < 512 << 20


def with_copies(count: int, **lie: Any) -> tuple[bytes, Manifest]:
    """The scalar, and that often a copy of it, of which the last is as `lie` says."""
    rows = [dataclasses.replace(ROWS[3], tensor=f"copy {number}") for number in range(count)]
    rows[-1] = dataclasses.replace(rows[-1], **lie)
    counts = MANIFEST.counts
    return with_rows(
        [*ROWS, *rows],
        tensors=counts.tensors + count,
        blocks=counts.blocks + count,
        weights=counts.weights + count,
    )


def test_copies_have_the_bytes_of_the_first() -> None:
    index = read_index(*with_copies(MAX_SHARING - 1), "index")
    assert ROWS[3].tensor == "scalar" and index.copy_of(index.blocks("scalar")[0]) is None
    assert index.copy_of(index.blocks("copy 0")[0]) == "scalar"
    assert index.nbytes("scalar") == ROWS[3].length and index.nbytes("copy 0") == 0
    assert index.nbytes("embed") == sum(row.length for row in ROWS[:3])


@pytest.mark.parametrize(
    "lie",
    [
        {"length": ROWS[3].length - 1},
        {"offset": ROWS[3].offset + 1, "length": ROWS[3].length - 1},
        {"sha256": b"1" * 32},
        {"source_sha256": b"1" * 32},
        {"coder": "nwc"},
        {"mse": 0.5},
        {"side_nbytes": 1},
        {"dtype": "I32"},
        {"shape": (1,)},
    ],
)
def test_a_copy_that_differs_in_anything_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"tensor '.*', offset: found \d+; wanted \d+ at least, behind another block"):
        read_index(*with_copies(1, **lie), "index")


def test_a_block_cannot_be_any_number_of_tensors() -> None:
    with pytest.raises(FormatError, match=f"wanted at most {MAX_SHARING} that are the same"):
        read_index(*with_copies(MAX_SHARING), "index")
