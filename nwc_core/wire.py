"""Reading and writing the small binary records of a coded tensor.

Little-endian throughout. `varint` is LEB128 of an unsigned integer below 2^63; `zigzag` maps a signed integer n to
2n (n >= 0) or -2n - 1 and writes that as varint. The reader believes nothing: every read is checked against the bytes
that exist, and its errors say at which byte of which record.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from nwc_core.errors import FormatError

_MAX_VARINT_BYTES = 9  # 63 bits: longer ones cannot be sizes of anything real


class ByteWriter:
    """Appends fields to a growing buffer."""

    def __init__(self) -> None:
        self._out = bytearray()

    def __len__(self) -> int:
        return len(self._out)

    def u8(self, value: int) -> None:
        self._out.append(value)

    def f32(self, value: float) -> None:
        self._out += struct.pack("<f", value)

    def varint(self, value: int) -> None:
        while value >= 0x80:
            self._out.append(value & 0x7F | 0x80)
            value >>= 7
        self._out.append(value)

    def zigzag(self, value: int) -> None:
        self.varint(2 * value if value >= 0 else -2 * value - 1)

    def raw(self, data: bytes | memoryview) -> None:
        self._out += data

    def getvalue(self) -> bytes:
        return bytes(self._out)


class ByteReader:
    """Reads the fields back from `data`; `where` names the record in errors."""

    def __init__(self, data: bytes | memoryview, where: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.where = where

    @property
    def position(self) -> int:
        return self._at

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def fail(self, found: str, wanted: str) -> FormatError:
        """The error to raise for a bad field just read."""
        return FormatError(f"{self.where}, byte {self._at}", found, wanted)

    def raw(self, size: int) -> memoryview:
        if size > self.remaining:
            raise self.fail(f"{self.remaining} bytes left", f"{size} more bytes")
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece

    def u8(self) -> int:
        at = self._at
        if at >= len(self._data):
            self.raw(1)  # raises
        self._at = at + 1
        return self._data[at]  # without a slice: small tensors are made of such fields

    def f32(self) -> float:
        value: float = struct.unpack("<f", self.raw(4))[0]
        return value

    def varint(self) -> int:
        value = 0
        for i in range(_MAX_VARINT_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value
        raise self.fail("an integer of more than 63 bits", "at most 9 bytes")

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)

    def zigzags(self, count: int) -> npt.NDArray[np.int64]:
        """As many zigzag integers, one after the other; thousands in the time of a few calls of `zigzag`."""
        ahead = np.frombuffer(self._data[self._at : self._at + _MAX_VARINT_BYTES * count], np.uint8)
        ends = np.flatnonzero(ahead < 0x80)[:count] + 1
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: ends.size]
        sizes = ends - starts
        if ends.size < count or (count and int(sizes.max()) > _MAX_VARINT_BYTES):
            return np.array([self.zigzag() for _ in range(count)], np.int64)  # raises, where the first one is wrong
        values = np.zeros(count, np.int64)
        for place in range(int(sizes.max(initial=0))):
            some = sizes > place
            values[some] |= (ahead[starts[some] + place].astype(np.int64) & 0x7F) << (7 * place)
        self._at += int(sizes.sum())
        return (values >> 1) ^ -(values & 1)

    def end(self) -> None:
        """Check that nothing is left over."""
        if self.remaining:
            raise self.fail(f"{self.remaining} bytes after the end", "the end of the record")
