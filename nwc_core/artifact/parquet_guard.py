"""What a hostile Parquet file can make its reader do, bounded before the reader sees it.

A Parquet reader believes three kinds of sizes: those of the footer, those of each page's header (a page of 60 KB can
unpack to 2 GB), and the counts of run-length codes. Here the first two are compared with each other and with the bytes
that exist; a row count bounded by the file's size takes care of the third. Arrow's reader also ends the process at
some values in a footer (an unknown compression is one), which no ``except`` can catch. So the footer is parsed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nwc_core.artifact.thrift import ThriftError, ThriftReader
from nwc_core.errors import FormatError

# Unpacked bytes allowed per byte of file. The index of one tensor in 100,000 identical blocks, which packs better than
# any real one, has 24 (and 4.7 bytes a row); an ordinary index has 2.
MAX_EXPANSION = 64
MIN_BYTES_PER_ROW = 2
_SLACK = 1 << 16  # page headers and dictionaries of an index with few rows
MAX_UNPACKED = 512 << 20
MAX_ROWS = 1 << 20

_MARK = b"PAR1"
_TAIL = 8  # the footer's length and the mark
_ZSTD = 6
# Fields of a footer and of its schema's elements: type, its length, repetition, name, number of children, converted
# and logical type. All but the optional field id.
_SCHEMA, _KEY_VALUES = 2, 5
_SCHEMA_FIELDS = (1, 2, 3, 4, 5, 6, 10)
_REPEATED = 2
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
# PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY. With DELTA_BYTE_ARRAY a million names could repeat the megabyte before them.
_ENCODINGS = (0, 2, 8)


@dataclass(frozen=True)
class Chunk:
    """One column in one row group, as the footer has it: bytes [start, stop) of the file, with `num_values` values."""

    start: int
    stop: int
    num_values: int


def check_parquet(data: bytes, like: bytes, max_repeats: int, where: str) -> None:
    """Check that reading `data` takes memory bounded by a small multiple of its size.

    Only what the writer of the index produces is let through: its columns, Zstandard, data pages of version 1, no
    encryption, no metadata.

    Args:
        data: the whole file.
        like: a trusted file with the columns that are wanted.
        max_repeats: how many values a row of a list column has at most.
        where: name of the file, for errors.

    Raises:
        FormatError: anything else.
    """
    footer = _read_footer(data, where)
    repeats = _check_columns(footer, _read_footer(like, "the wanted columns"), max_repeats, where)
    chunks = _read_chunks(footer, repeats, len(data), where)
    end = len(_MARK)
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        if not end <= chunk.start <= chunk.stop <= len(data) - _TAIL:
            raise FormatError(where, f"column chunk at bytes {chunk.start} to {chunk.stop}", f"one from {end} on")
        end = chunk.stop
    limit = min(MAX_UNPACKED, MAX_EXPANSION * len(data) + _SLACK)
    unpacked = 0
    for chunk in chunks:
        unpacked += sum(page_sizes(data, chunk, where))
        if unpacked > limit:
            raise FormatError(where, f"pages that unpack to {unpacked} bytes and more", f"at most {limit}")


def _read_footer(data: bytes, where: str) -> dict[int, Any]:
    if len(data) < len(_MARK) + _TAIL or data[:4] != _MARK or data[-4:] != _MARK:
        raise FormatError(where, f"{len(data)} bytes without Parquet's marks", "a Parquet file")
    size = int.from_bytes(data[-8:-4], "little")
    start = len(data) - _TAIL - size
    if start < len(_MARK):
        raise FormatError(where, f"a Parquet footer of {size} bytes", f"one inside the file of {len(data)} bytes")
    try:
        return ThriftReader(data, start, len(data) - _TAIL).struct()
    except ThriftError:
        raise FormatError(where, "a damaged Parquet footer", "an intact one") from None


def _check_columns(footer: dict[int, Any], like: dict[int, Any], max_repeats: int, where: str) -> list[int]:
    """Both files have the same columns. Returns how many values a row may have in each."""
    if _KEY_VALUES in footer:  # Arrow would take other column types from there
        raise FormatError(f"{where}: columns", "metadata of the file", "none")
    schema, wanted = footer.get(_SCHEMA), like[_SCHEMA]
    if not isinstance(schema, list) or len(schema) != len(wanted):
        raise FormatError(f"{where}: columns", "other columns", f"{[column[4].decode() for column in wanted[1:]]}")
    repeats = []
    repeated = False
    for found, column in zip(schema, wanted, strict=True):
        for key in _SCHEMA_FIELDS:
            if not isinstance(found, dict) or found.get(key) != column.get(key):
                name = column[4].decode()
                raise FormatError(f"{where}: columns", f"another column in place of {name!r}", f"{column}")
        repeated = repeated or column.get(3) == _REPEATED
        if not column.get(5):  # a leaf: no children
            repeats.append(max_repeats if repeated else 1)
            repeated = False
    return repeats


def _read_chunks(footer: dict[int, Any], repeats: Sequence[int], size: int, where: str) -> list[Chunk]:
    """All column chunks; what is said of rows, values and compression is checked, their places are not."""
    limit = min(MAX_ROWS, size // MIN_BYTES_PER_ROW)
    chunks = []
    try:
        rows, groups = footer[3], footer[4]
        if not 0 <= rows <= limit:
            raise FormatError(where, f"{rows} rows in {size} bytes", f"at most {limit}")
        # Each group has a row at least, so that there cannot be many: Arrow takes kilobytes for each.
        if sum(group[3] for group in groups) != rows or any(group[3] < 1 for group in groups):
            raise FormatError(where, f"row groups of {[group[3] for group in groups][:8]} rows", f"{rows} rows in all")
        for group in groups:
            if len(group[1]) != len(repeats):
                raise FormatError(where, f"{len(group[1])} columns", f"{len(repeats)}")
            chunks += [
                _chunk(column[3], group[3], most, f"{where}: column {number}")
                for number, (column, most) in enumerate(zip(group[1], repeats, strict=True))
            ]
    except (LookupError, TypeError, AttributeError):  # a field is missing, or of another kind
        raise FormatError(where, "a damaged Parquet footer", "an intact one") from None
    return chunks


def _chunk(meta: dict[int, Any], rows: int, repeats: int, where: str) -> Chunk:
    compression, values, size, start = meta[4], meta[5], meta[7], meta[9]
    if compression != _ZSTD:
        raise FormatError(where, f"compression {compression}", f"{_ZSTD} (Zstandard)")
    if not (0 <= values <= rows * repeats and size >= 0):
        raise FormatError(where, f"{values} values in {rows} rows, {size} bytes", f"at most {rows * repeats} values")
    if 0 < meta.get(11, 0) < start:
        start = meta[11]  # the dictionary comes first
    return Chunk(start, start + size, values)


def page_sizes(data: bytes, chunk: Chunk, where: str) -> list[int]:
    """Unpacked size of each page of a chunk; the pages fill the chunk and hold exactly its values.

    Raises:
        FormatError: they do not.
    """
    sizes: list[int] = []
    seen, at = 0, chunk.start
    while at < chunk.stop:
        reader = ThriftReader(data, at, chunk.stop)
        try:
            header = reader.struct()
            kind, unpacked, packed = header[1], header[2], header[3]
            if kind == _DATA_PAGE:
                count, encoding = header[5][1], header[5][2]
                seen += count
            elif kind == _DICTIONARY_PAGE and not sizes:
                count, encoding = header[7][1], header[7][2]
            else:
                raise FormatError(where, f"a page of type {kind} at byte {at}", "data pages, version 1")
            fits = 0 <= packed <= chunk.stop - reader.at and unpacked >= 0 and 0 <= count <= chunk.num_values
        except (ThriftError, LookupError, TypeError):
            raise FormatError(where, f"no page header at byte {at}", "a Parquet page header") from None
        if encoding not in _ENCODINGS:
            raise FormatError(where, f"a page of encoding {encoding} at byte {at}", "plain values or a dictionary")
        if not fits:
            found = f"a page of {packed} bytes, {unpacked} unpacked, {count} values at byte {at}"
            raise FormatError(where, found, f"sizes that fit into its chunk, which ends at {chunk.stop}")
        sizes.append(unpacked)
        at = reader.at + packed
    if seen != chunk.num_values:
        raise FormatError(where, f"{seen} values in the column chunk at byte {chunk.start}", f"{chunk.num_values}")
    return sizes
