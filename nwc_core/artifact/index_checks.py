"""The rules that the rows of an index obey, among themselves and with the manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nwc_core.dtypes import DTYPES
from nwc_core.encoded import CODERS, MAX_RANK, WITH_BASE, most_elements
from nwc_core.errors import FormatError
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    from nwc_core.artifact.index import BlockRow
    from nwc_core.artifact.manifest import Manifest

MAX_SHARING = 16  # blocks that have the same bytes: an index must not claim any number of weights for a few bytes
_MAX_ELEMENTS = 1 << 48  # as in a coded tensor; keeps every product of dimensions inside 63 bits


def check_rows(rows: Sequence[BlockRow], manifest: Manifest, where: str) -> None:
    """Check every rule; `where` names the index in errors.

    Raises:
        FormatError: the first rule that is broken, with the number of the row and the tensor.
    """
    payload_sizes = {ref.object: ref.size for ref in manifest.payloads}
    tensors: dict[str, BlockRow] = {}
    previous: BlockRow | None = None
    for number, row in enumerate(rows):
        at = _Row(where, number, row)
        _check_place(at, payload_sizes)
        _check_fields(at)
        if row.coder in WITH_BASE and manifest.base is None:
            raise at.wrong("coder", row.coder, "one without a base: the manifest names none")
        if previous is None or previous.tensor != row.tensor:
            if row.tensor in tensors:
                raise at.wrong("tensor", "the name a second time", "all blocks of a tensor in a row")
            tensors[row.tensor] = row
            previous = None
        _check_tiling(at, previous, last=number + 1 == len(rows) or rows[number + 1].tensor != row.tensor)
        previous = row
    _check_overlaps(rows, where)
    _check_files(tensors, manifest, where)
    _check_counts(rows, len(tensors), manifest, where)


class _Row:
    """A row and its place. The text is made only for an error: names may be hostile, and long."""

    def __init__(self, where: str, number: int, row: BlockRow) -> None:
        self.where, self.number, self.row = where, number, row

    def wrong(self, key: str, found: object, wanted: str) -> FormatError:
        place = f"{self.where}: row {self.number} (tensor {shown(self.row.tensor)}), {key}"
        return FormatError(place, found if isinstance(found, str) else shown(found), wanted)


def _check_place(at: _Row, payload_sizes: dict[str, int]) -> None:
    """The block's bytes lie inside a payload that the manifest names."""
    row = at.row
    size = payload_sizes.get(row.object)
    if size is None:
        raise at.wrong("object", shown(row.object), "a payload that the manifest names")
    if row.offset < 0 or row.length < 1 or row.offset + row.length > size:
        found = f"bytes {row.offset} to {row.offset + row.length}"
        raise at.wrong("offset and length", found, f"a range inside the {size} bytes of {row.object}")


def _check_fields(at: _Row) -> None:
    """Each field makes sense by itself."""
    row = at.row
    if row.dtype not in DTYPES:
        raise at.wrong("dtype", shown(row.dtype), f"one of {', '.join(DTYPES)}")
    if row.coder not in CODERS:
        raise at.wrong("coder", shown(row.coder), f"one of {', '.join(CODERS)}")
    if len(row.shape) > MAX_RANK or min(row.shape, default=0) < 0:
        raise at.wrong("shape", row.shape, f"at most {MAX_RANK} dimensions, none negative")
    # The product of the non-zero dimensions, so that a zero cannot hide an absurd one.
    if math.prod(size for size in row.shape if size) > _MAX_ELEMENTS:
        raise at.wrong("shape", row.shape, f"at most {_MAX_ELEMENTS} elements")
    # What decoding would refuse is refused on opening: the whole index claims no more than its payloads can hold.
    most = most_elements(row.coder, DTYPES[row.dtype], row.length)
    if row.stop - row.start > most:
        raise at.wrong("start and stop", f"{row.stop - row.start} elements", f"at most {most} in {row.length} bytes")
    if not 0 <= row.side_nbytes <= row.length:
        raise at.wrong("side_nbytes", row.side_nbytes, f"0 to the block's {row.length} bytes")
    if not row.mse >= 0 or (row.tuned and not DTYPES[row.dtype].lossy):  # `not >=` catches NaN
        raise at.wrong("mse", row.mse, "0 or more, and 0 for what no coder changes")


def _check_tiling(at: _Row, previous: BlockRow | None, last: bool) -> None:
    """A block starts where the one before it in the tensor ended, and the last ends with the tensor."""
    row = at.row
    for key in ("dtype", "shape", "file"):
        if previous is not None and getattr(row, key) != getattr(previous, key):
            raise at.wrong(key, getattr(row, key), f"{shown(getattr(previous, key))}, as in the block before")
    total = math.prod(row.shape)
    start = 0 if previous is None else previous.stop
    if row.start != start:
        raise at.wrong("start", row.start, str(start))
    # Only a tensor without elements has an empty block, and then one alone.
    if not start < row.stop <= total and not (total == row.stop == 0 and previous is None):
        raise at.wrong("stop", row.stop, f"more than {start}, at most {total}")
    if last and row.stop != total:
        raise at.wrong("stop", row.stop, f"{total}, the end of the tensor")


def _check_overlaps(rows: Sequence[BlockRow], where: str) -> None:
    """Blocks lie apart, but for those that are the same."""
    previous: BlockRow | None = None
    sharing = 1
    for row in sorted(rows, key=lambda row: (row.object, row.offset)):
        if previous is not None and previous.object == row.object and row.offset < previous.offset + previous.length:
            at = f"{where}: tensor {shown(row.tensor)}, offset"
            sharing += 1
            if row.tensor == previous.tensor or _content(row) != _content(previous):
                end = previous.offset + previous.length
                raise FormatError(at, str(row.offset), f"{end} at least, behind another block, or all as in that block")
            if sharing > MAX_SHARING:
                raise FormatError(at, f"{row.offset} for {sharing} blocks", f"at most {MAX_SHARING} that are the same")
        else:
            sharing = 1
        previous = row


def _content(row: BlockRow) -> tuple[object, ...]:
    """What blocks that lie at the same place have in common: all but the names of tensor and file."""
    place = (row.object, row.offset, row.length, row.sha256, row.coder, row.side_nbytes, row.mse)
    return (*place, row.dtype, row.shape, row.start, row.stop, row.source_sha256)


def _check_files(tensors: dict[str, BlockRow], manifest: Manifest, where: str) -> None:
    """Tensors fit into the weight files that they came from: no index can claim more weights than there were."""
    left = {file.path: file.size for file in manifest.weight_files}
    for name, row in tensors.items():
        if row.file not in left:
            raise FormatError(f"{where}: tensor {shown(name)}, file", shown(row.file), "a weight file of the manifest")
        left[row.file] -= math.prod(row.shape) * DTYPES[row.dtype].itemsize
        if left[row.file] < 0:
            raise FormatError(f"{where}: tensors of {shown(row.file)}", "more bytes", "no more than the file had")


def _check_counts(rows: Sequence[BlockRow], tensors: int, manifest: Manifest, where: str) -> None:
    counted = {"tensors": tensors, "weights": sum(row.numel for row in rows), "blocks": len(rows)}
    for key, number in counted.items():
        wanted = getattr(manifest.counts, key)
        if number != wanted:
            raise FormatError(f"{where}: {key}", str(number), f"{wanted}, as the manifest counts")
