"""index-<digest>.parquet: one row for each coded block, in the order of the tensors and of the blocks in them.

Nothing of a read index is believed until every row agrees with its neighbours and with the manifest.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from nwc_core.encoded import EXACT_DELTA, LOSSY_CODERS, MAX_RANK
from nwc_core.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

    from nwc_core.artifact.manifest import Manifest

ROWS_PER_GROUP = 5_000
# Columns whose values repeat or that are text. Digests and sizes rarely repeat; a dictionary would only add to them.
_DICTIONARY = ["tensor", "dtype", "file", "coder", "object"]


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One coded block: elements [start, stop) of a flattened tensor.

    Attributes:
        tensor: its name.
        dtype: safetensors' name of the element type, e.g. "BF16".
        shape: of the whole tensor.
        file: the weight file that it came from, relative to the checkpoint.
        start, stop: half-open range of elements.
        coder: one of `nwc_core.encoded.CODERS`.
        object: key of the payload.
        offset, length: where the block's bytes are in the payload: [offset, offset + length).
        sha256: digest of those bytes, 32 bytes.
        source_sha256: digest of the uncompressed little-endian source bytes of the block, 32 bytes.
        side_nbytes: how many of the bytes are header and side information.
        mse: mean squared error per weight; 0.0 for lossless coders, except of elements that were tuned, or that are those of
            a base which was coded lossily.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int
    coder: str
    object: str
    offset: int
    length: int
    sha256: bytes
    source_sha256: bytes
    side_nbytes: int
    mse: float

    @property
    def numel(self) -> int:
        """Elements in the block."""
        return self.stop - self.start

    @property
    def tuned(self) -> bool:
        """Whether a lossless coder holds other elements than the source's: they were tuned after compression."""
        return self.coder not in (*LOSSY_CODERS, EXACT_DELTA) and self.mse > 0

    @property
    def bits_per_weight(self) -> float:
        """8 * length / elements; infinite for an empty block."""
        return 8 * self.length / self.numel if self.numel else math.inf


class Index:
    """The checked rows of an index, by tensor. Immutable."""

    def __init__(self, rows: Sequence[BlockRow]) -> None:
        self._rows = tuple(rows)
        blocks: dict[str, list[BlockRow]] = {}
        for row in self._rows:
            blocks.setdefault(row.tensor, []).append(row)
        self._blocks = {name: tuple(of_tensor) for name, of_tensor in blocks.items()}
        self._copies = self._find_copies()

    def _find_copies(self) -> dict[tuple[str, int], str]:
        """Of each block whose bytes are an earlier one's, by tensor and first element, the name of that one's tensor."""
        first: dict[tuple[str, int], str] = {}
        copies = {}
        for row in self._rows:
            name = first.setdefault((row.object, row.offset), row.tensor)
            if name != row.tensor:
                copies[row.tensor, row.start] = name
        return copies

    def names(self) -> list[str]:
        """Names of the tensors, in stored order."""
        return list(self._blocks)

    def blocks(self, name: str) -> tuple[BlockRow, ...]:
        """The blocks of a tensor, in order of their elements. KeyError if there is no such tensor."""
        return self._blocks[name]

    def copy_of(self, row: BlockRow) -> str | None:
        """The name of the tensor whose block, the same range of it, a block shares its bytes with; None if it is the first that
        has them."""
        return self._copies.get((row.tensor, row.start))

    def nbytes(self, name: str) -> int:
        """Coded bytes of a tensor, those left out that an earlier one has, too."""
        return sum(row.length for row in self.blocks(name) if self.copy_of(row) is None)

    def __contains__(self, name: object) -> bool:
        return name in self._blocks

    def __iter__(self) -> Iterator[BlockRow]:
        return iter(self._rows)

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._rows)


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    dimensions = pa.list_(pa.field("element", pa.int64(), nullable=False))
    types = {
        **dict.fromkeys(("tensor", "dtype"), pa.string()),
        "shape": dimensions,
        "file": pa.string(),
        **dict.fromkeys(("start", "stop"), pa.int64()),
        **dict.fromkeys(("coder", "object"), pa.string()),
        **dict.fromkeys(("offset", "length"), pa.int64()),
        **dict.fromkeys(("sha256", "source_sha256"), pa.binary(32)),
        "side_nbytes": pa.int64(),
        "mse": pa.float64(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def write_index(rows: Sequence[BlockRow]) -> bytes:
    """The Parquet file of these rows, in their order. Equal rows and an equal pyarrow give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    buffer = io.BytesIO()
    # Every option is given, also where it is the default today: another version must not change the bytes.
    with pq.ParquetWriter(
        buffer,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=9,
        use_dictionary=[*_DICTIONARY, "shape.list.element"],
        dictionary_pagesize_limit=1 << 20,
        data_page_size=1 << 20,
        write_batch_size=1024,
        write_statistics=["tensor", "start"],
        write_page_index=True,
        write_page_checksum=False,
        use_byte_stream_split=False,
        use_compliant_nested_type=True,
        store_schema=False,
    ) as writer:
        if rows:  # no tensors, no row group: an empty one would have chunks without a place in the file
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)
    return buffer.getvalue()


def read_index(data: bytes, manifest: Manifest, where: str) -> Index:
    """Read an index and check every row of it; `where` names it in errors.

    The caller has compared `data` with the digest in the manifest. Memory is bounded by a multiple of the size of
    `data`, see `parquet_guard`.

    Raises:
        FormatError: not an index, or one that contradicts itself or the manifest; names the row.
    """
    from nwc_core.artifact.index_checks import check_rows

    rows = _read_rows(data, where)
    check_rows(rows, manifest, where)
    return Index(rows)


def _read_rows(data: bytes, where: str) -> list[BlockRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nwc_core.artifact.parquet_guard import check_parquet

    schema = _schema()
    try:
        check_parquet(data, _empty_index(), MAX_RANK, where)
        # Text stays in its dictionary: a long string that a million rows name is stored once.
        table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=_DICTIONARY).read(use_threads=False)
        table.validate(full=True)
        columns = [_values(table.column(name)) for name in schema.names]
    except FormatError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(where, f"damaged Parquet ({reason})", "an intact index") from None
    shapes = columns[schema.names.index("shape")]
    shapes[:] = map(tuple, shapes)
    return [BlockRow(*values) for values in zip(*columns, strict=True)]


@cache
def _empty_index() -> bytes:
    """A file with the columns of an index, to compare others with."""
    return write_index([])


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python values; equal text shares one string."""
    import pyarrow as pa

    values: list[Any] = []
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            words = chunk.dictionary.to_pylist()
            values += [words[i] for i in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values
