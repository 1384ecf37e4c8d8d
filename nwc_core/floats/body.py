"""The body of a tensor of coder "float".

    varint  columns: the tensor is a matrix [elements / columns, columns] in row-major order
    u8      groups: 1, or 2
    bits    with 2 groups, for each row, from the lowest bit of the first byte on, to which group it belongs; whole bytes
    { group } for each, of its rows in order, see `nwc_core.floats.group`

Two groups are for tensors of which some rows come from a coarser type: embeddings never trained after a conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.dtypes import DType
from nwc_core.encoded import most_elements
from nwc_core.errors import FormatError
from nwc_core.floats.choose import encode_group
from nwc_core.floats.group import Group
from nwc_core.floats.patterns import PATTERNS, Patterns
from nwc_core.wire import ByteReader, ByteWriter

# A second group takes a bit for each row and a header, with tables and column scales of its own.
_GROUP_BITS, _GROUP_COLUMN_BITS = 4096, 8
_OUTLIER, _SAMPLED = 2.0**12, 1 << 14  # times the median of so many
_LARGEST = float(np.finfo(np.float32).max)
_Unsigned = npt.NDArray[np.unsignedinteger[Any]]


def encode_body(dtype: DType, raw: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> tuple[bytes, int] | None:
    """(body, bytes of it that are side information) of a tensor's bytes; None for other types, and for none."""
    patterns = PATTERNS.get(dtype.name)
    if patterns is None or not raw.size:
        return None
    flat, values = raw.view(patterns.dtype), _values(dtype, raw)
    made = [_encode(patterns, flat, values, columns) for columns in _columns(shape)]
    return min(made, key=lambda body: len(body[0]))


def decode_body(
    dtype: DType, body: bytes, numel: int, where: str, threads: int = 1
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Patterns [numel].

    Raises:
        FormatError: the body is damaged, or holds another tensor.
    """
    patterns = PATTERNS.get(dtype.name)
    most = most_elements("float", dtype, len(body))
    if patterns is None or not 0 < numel <= most:
        found = f"{numel} elements of {dtype.name} in {len(body)} bytes"
        raise FormatError(where, found, f"1 to {most}, of {', '.join(PATTERNS)}")
    reader = ByteReader(body, where)
    n, count = reader.varint(), reader.u8()
    if n < 1 or numel % n or count not in (1, 2):
        raise reader.fail(f"{n} columns, {count} groups", f"a divisor of {numel}, and 1 or 2")
    m = numel // n
    member = np.zeros(m, np.uint8)
    if count == 2:
        packed = np.frombuffer(reader.raw(-(-m // 8)), np.uint8)
        member = np.unpackbits(packed, count=m, bitorder="little")
    rows = [np.flatnonzero(member == number) for number in range(count)]
    if min(part.size for part in rows) == 0:
        raise reader.fail("a group of no rows", "one at least in each")
    groups = [Group.read(reader, patterns, part.size, n) for part in rows]
    reader.end()
    out = np.empty((m, n), patterns.dtype)
    if count == 1:
        groups[0].decode_into(out, where, threads)
    else:
        for number, (group, part) in enumerate(zip(groups, rows, strict=True)):
            some = np.empty((part.size, n), patterns.dtype)
            group.decode_into(some, f"{where}, group {number}", threads)
            out[part] = some
    return out.reshape(-1)


def _values(dtype: DType, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """As float32; 0 where that is not finite, or so large that it says nothing of the others."""
    import torch

    values: npt.NDArray[np.float32] = torch.from_numpy(raw).view(dtype.torch).to(torch.float32).numpy()
    sample = np.abs(values[:: max(1, values.size // _SAMPLED)])
    sample = sample[(sample > 0) & np.isfinite(sample)]
    largest = np.float32(min(_OUTLIER * float(np.median(sample)), _LARGEST)) if sample.size else np.float32(_LARGEST)
    sound = np.abs(values) <= largest  # NaN is not
    return values if sound.all() else np.where(sound, values, np.float32(0))


def _columns(shape: tuple[int, ...]) -> list[int]:
    """How many columns to try: kernels [out, in, h, w], or [h, w, in, out]."""
    if len(shape) < 2:
        return [max(1, *shape, 1)]
    first, last = int(np.prod(shape[1:])), shape[-1]
    return [first] if len(shape) == 2 else sorted({first, last})


def _encode(patterns: Patterns, flat: _Unsigned, values: npt.NDArray[np.float32], n: int) -> tuple[bytes, int]:
    matrix, valued = flat.reshape(-1, n), values.reshape(-1, n)
    out = ByteWriter()
    out.varint(n)
    dead = _dead_bits(patterns, matrix)
    member = _coarser_rows(dead, n)
    out.u8(1 if member is None else 2)
    if member is not None:
        out.raw(np.packbits(member, bitorder="little").tobytes())
    side = len(out)
    for rows in [slice(None)] if member is None else [~member, member]:
        group = encode_group(patterns, matrix[rows], valued[rows], int(dead[rows].min()))
        side += group.write(out)
    return out.getvalue(), side


def _dead_bits(patterns: Patterns, matrix: _Unsigned) -> npt.NDArray[np.int64]:
    """[m] how many of the lowest mantissa bits are 0 in all weights of a row; at most those below the top."""
    used = np.bitwise_or.reduce(matrix, axis=1).astype(np.int64) | 1 << patterns.low_bits
    lowest = used & -used
    places: npt.NDArray[np.int64] = np.log2(lowest.astype(np.float64)).astype(np.int64)
    return places


def _coarser_rows(dead: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_] | None:
    """Rows to code apart from the others; None if none are worth it."""
    least, m = int(dead.min()), dead.size
    best, chosen = m + _GROUP_BITS + _GROUP_COLUMN_BITS * n, None
    for bits in np.unique(dead)[1:]:
        rows = dead >= bits
        saved = int(bits - least) * int(rows.sum()) * n
        if saved > best:
            best, chosen = saved, rows
    return chosen
