"""The header of a safetensors file: a parser that believes nothing, and a writer that is deterministic.

The parser accepts what the official library accepts and refuses what it refuses: tensors cover the data without hole,
overlap or rest, byte counts agree with shapes, spaces may pad the header. Three refusals are its own: a key that
appears twice (the format forbids it, the library keeps the last), a tensor written as an array instead of an object,
and element types that nwc does not know.

Layout of a file: 8 bytes, the header's length as little-endian u64; the header, JSON; the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import FormatError
from nwc_core.strict_json import parse_json, shown

MAX_HEADER_NBYTES = 100_000_000  # the official library's cap: a longer header would not open elsewhere
LENGTH_NBYTES = 8
METADATA_KEY = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_U64 = 1 << 64  # sizes are u64 in the format; a product at or beyond this overflows in other readers


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        dtype: element type.
        shape: dimensions; () for a scalar.
        start: offset of its first byte in the file.
        stop: offset behind its last byte in the file.
    """

    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: by name, in order of their place in the file.
        metadata: the writer's free text entries.
        data_start: offset of the first data byte in the file.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def parse_header(read: Callable[[int, int], bytes], size: int, where: str) -> Header:
    """Read and check the header of a safetensors file; no byte of the data is read.

    Args:
        read: read(start, stop) gives exactly the file's bytes [start, stop).
        size: the file's true size in bytes.
        where: the file's name, for errors.

    Raises:
        FormatError: the header is not what the format asks for, or does not fit the file's size.
    """
    if size < LENGTH_NBYTES:
        raise FormatError(where, f"{size} bytes", f"at least {LENGTH_NBYTES}: safetensors starts with a length")
    prefix = read(0, LENGTH_NBYTES)
    if prefix == b"version ":
        raise FormatError(where, "a Git LFS pointer", "the file that it stands for (git lfs pull fetches it)")
    length = int.from_bytes(prefix, "little")
    data_start = LENGTH_NBYTES + length
    if length > MAX_HEADER_NBYTES:
        raise FormatError(where, f"a header of {length} bytes", f"a safetensors header, {MAX_HEADER_NBYTES} at most")
    if data_start > size:
        raise FormatError(where, f"{size} bytes", f"{data_start}, the length of the header that it announces")

    entries = parse_json(read(LENGTH_NBYTES, data_start), f"{where}: header")
    if not isinstance(entries, dict):
        raise FormatError(f"{where}: header", shown(entries), "a JSON object")
    metadata = _metadata(entries.pop(METADATA_KEY, None), where)
    found = [(name, _tensor(entry, data_start, where, name)) for name, entry in entries.items()]
    found.sort(key=lambda item: (item[1].start, item[1].stop))  # stable: empty tensors keep the header's order
    _check_cover(found, data_start, size, where)
    return Header(dict(found), metadata, data_start)


def build_header(entries: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file, up to its data; equal arguments give equal bytes.

    Args:
        entries: (name, dtype name, shape) of each tensor, in the order in which their data will follow, without gaps.
        metadata: free text entries; written in order of their keys.

    Returns:
        The length field and the header, padded with spaces to a multiple of 8 bytes.

    Raises:
        FormatError: a file with these entries would not open.
    """
    header: dict[str, Any] = {}
    if metadata:
        header[METADATA_KEY] = _metadata(dict(sorted(metadata.items())), "safetensors header")
    offset = 0
    for name, dtype_name, shape in entries:
        where = _at("safetensors header", name)
        if name in header or name == METADATA_KEY:
            raise FormatError(where, "the name twice, or reserved", "names that are unique")
        nbytes = _nbytes(_dtype(dtype_name, where), _sizes(list(shape), "shape", where), where)
        header[name] = {"dtype": dtype_name, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("safetensors header", shown(error.object[error.start]), "Unicode text") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_NBYTES:
        raise FormatError("safetensors header", f"{len(text)} bytes", f"{MAX_HEADER_NBYTES} at most")
    return len(text).to_bytes(LENGTH_NBYTES, "little") + text


def _at(where: str, name: str) -> str:
    return f"{where}: tensor {shown(name)}"


def _metadata(value: object, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise FormatError(f"{where}: {METADATA_KEY}", shown(value), "an object of strings")
    return value


def _tensor(entry: object, data_start: int, where: str, name: str) -> TensorInfo:
    """One entry, correct in itself: its offsets hold exactly the bytes that its shape asks for."""
    try:
        return _sound_tensor(entry, data_start)
    except FormatError as error:  # named only where it must be: checkpoints have many tensors
        raise FormatError(f"{_at(where, name)}{error.where}", error.found, error.wanted) from None


def _sound_tensor(entry: object, data_start: int) -> TensorInfo:
    where = ""
    if not isinstance(entry, dict):
        raise FormatError(where, shown(entry), "an object with dtype, shape and data_offsets")
    if not entry.keys() >= _KEYS:
        missing = [key for key in ("dtype", "shape", "data_offsets") if key not in entry]
        raise FormatError(where, f"no {' and no '.join(missing)}", "dtype, shape and data_offsets")
    dtype = _dtype(entry["dtype"], where)
    shape = _sizes(entry["shape"], "shape", where)
    offsets = _sizes(entry["data_offsets"], "data_offsets", where)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(where, f"data_offsets {shown(list(offsets))}", "[start, stop] with start <= stop")
    start, stop = offsets
    nbytes = _nbytes(dtype, shape, where)
    if stop - start != nbytes:
        wanted = f"{nbytes} for {dtype.name} of shape {shown(list(shape))}"
        raise FormatError(where, f"{stop - start} bytes in data_offsets [{start}, {stop}]", wanted)
    return TensorInfo(dtype, shape, data_start + start, data_start + stop)


def _dtype(name: object, where: str) -> DType:
    if not isinstance(name, str) or name not in DTYPES:
        raise FormatError(where, f"dtype {shown(name)}", f"one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _sizes(values: object, field: str, where: str) -> tuple[int, ...]:
    if isinstance(values, list):
        for value in values:
            if type(value) is not int or not 0 <= value < _U64:  # True is an int to isinstance
                break
        else:
            return tuple(values)
    raise FormatError(where, f"{field} {shown(values)}", "a list of whole numbers, 0 or more, below 2**64")


def _nbytes(dtype: DType, shape: tuple[int, ...], where: str) -> int:
    """Bytes of a tensor; every partial product must fit 64 bits, even when a later dimension is 0."""
    count = 1
    for dim in shape:
        count *= dim
        if count >= _U64:
            break
    if count * dtype.itemsize >= _U64:
        raise FormatError(where, f"shape {shown(list(shape))}, whose size overflows", "fewer than 2**64 bytes")
    return count * dtype.itemsize


def _check_cover(found: list[tuple[str, TensorInfo]], data_start: int, size: int, where: str) -> None:
    """Tensors in order of place lie side by side from the data's first byte to the file's last."""
    end = data_start
    for name, info in found:
        if info.stop > size:
            raise FormatError(_at(where, name), f"bytes up to {info.stop}", f"at most {size}, the file's size")
        if info.start != end:
            kind = "an overlap with another tensor" if info.start < end else "a hole in front of it"
            raise FormatError(_at(where, name), f"{kind}: start at byte {info.start}", f"start at byte {end}")
        end = info.stop
    if end != size:
        raise FormatError(where, f"{size} bytes", f"{end}, where the last tensor ends")
