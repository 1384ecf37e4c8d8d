"""Thrift's compact protocol, as far as Parquet's footers and page headers use it. For reading, and for hostile bytes.

A struct comes back as {field id: value}: integers, booleans and byte strings as they are, structs as dicts, lists as
lists, doubles as the 8 bytes that they are.
"""

from __future__ import annotations

from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
_MAX_NESTING = 16  # footers need 8


class ThriftError(Exception):
    """The bytes are no such struct, or end before it does."""


class ThriftReader:
    """Reads structs from data[at:stop]; `at` moves behind what was read. Work and memory are linear in the bytes."""

    def __init__(self, data: bytes, at: int, stop: int) -> None:
        self._data, self.at, self._stop = data, at, stop

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The struct that starts here.

        Raises:
            ThriftError: there is none.
        """
        if depth > _MAX_NESTING:
            raise ThriftError
        fields: dict[int, Any] = {}
        field = 0
        while True:
            head = self._byte()
            delta, kind = head >> 4, head & 0x0F
            if kind == 0:
                return fields
            field = field + delta if delta else self._integer()
            fields[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _LIST:
            return self._list(depth + 1)
        if kind in (_TRUE, _FALSE, _BYTE):  # booleans only inside of lists
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise ThriftError

    def _list(self, depth: int) -> list[Any]:
        if depth > _MAX_NESTING:
            raise ThriftError
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        if size > self._stop - self.at:  # every element takes a byte or more
            raise ThriftError
        return [self._value(head & 0x0F, depth) for _ in range(size)]

    def _byte(self) -> int:
        if self.at >= self._stop:
            raise ThriftError
        self.at += 1
        return self._data[self.at - 1]

    def _bytes(self, size: int) -> bytes:
        if size > self._stop - self.at:
            raise ThriftError
        self.at += size
        return self._data[self.at - size : self.at]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ThriftError

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
