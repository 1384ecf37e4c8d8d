"""payload-<digest>.safetensors: coded blocks as one-dimensional uint8 tensors that any safetensors tool can list.

The tensors are named ``<tensor>#<number of the block in its tensor>`` and lie in the order given, without gaps.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from nwc_core.errors import FormatError
from nwc_core.safetensors_header import build_header, parse_header
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    from nwc_core.artifact.index import BlockRow

_NAME = re.compile(r"(.*)#(0|[1-9][0-9]{0,8})", re.DOTALL)
_METADATA = {"format": "nwc-payload", "version": "1"}


@dataclass(frozen=True)
class Payload:
    """A payload ready to store.

    Attributes:
        data: the safetensors file.
        ranges: (offset, length) of each block in `data`, in the order given.
    """

    data: bytes = field(repr=False)
    ranges: list[tuple[int, int]]


def build_payload(blocks: Sequence[tuple[str, bytes]]) -> Payload:
    """Pack blocks into one payload; equal blocks give equal bytes.

    Args:
        blocks: (name, coded bytes) of each block; `block_name` makes the names.

    Raises:
        FormatError: a name twice.
    """
    header = build_header([(name, "U8", (len(data),)) for name, data in blocks], _METADATA)
    ranges, offset = [], len(header)
    for _, data in blocks:
        ranges.append((offset, len(data)))
        offset += len(data)
    return Payload(b"".join([header, *(data for _, data in blocks)]), ranges)


def block_name(tensor: str, number: int) -> str:
    """Name of a block in its payload; `number` counts the blocks of a tensor from 0, over all payloads."""
    return f"{tensor}#{number}"


def check_payload(data: bytes, rows: Iterable[BlockRow], where: str = "payload") -> None:
    """Check that the header of a payload says the same as the index.

    Args:
        data: the whole object.
        rows: the index's rows of this object, and no others.
        where: name of the object, for errors.

    Raises:
        FormatError: not a safetensors file; a block that only one of them knows; or another place or order.
    """
    header = parse_header(lambda start, stop: data[start:stop], len(data), where)
    wanted: dict[int, list[BlockRow]] = defaultdict(list)
    for row in rows:
        wanted[row.offset].append(row)  # several if they are copies
    numbers: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, info in header.tensors.items():
        at = f"{where}: tensor {shown(name)}"
        here = wanted.pop(info.start, None)
        if here is None:
            raise FormatError(at, f"a block at byte {info.start}", "only blocks that the index names")
        match = _NAME.fullmatch(name)
        row = here[0] if match is None else next((row for row in here if row.tensor == match[1]), here[0])
        if match is None or match[1] != row.tensor:
            raise FormatError(at, "this name", f"{shown(row.tensor)}, #, and a number")
        if info.dtype.name != "U8" or info.shape != (row.length,):
            raise FormatError(at, f"{info.dtype.name} {list(info.shape)}", f"U8 [{row.length}], as the index says")
        numbers[row.tensor].append((row.start, int(match[2])))
    if wanted:
        row = next(iter(wanted.values()))[0]
        raise FormatError(
            f"{where}: block of {shown(row.tensor)}", "none", f"one at byte {row.offset}, as in the index"
        )
    for tensor, pairs in numbers.items():
        in_order = [number for _, number in sorted(pairs)]
        if any(a >= b for a, b in pairwise(in_order)):
            raise FormatError(
                f"{where}: blocks of {shown(tensor)}", f"numbers {in_order[:8]}", "the order of the index"
            )
