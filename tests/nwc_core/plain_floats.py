"""Coder "float" decoded as artifact/SPEC.md says it, number by number: what the compiled kernels are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nwc_core.floats.tables import learned_families
from nwc_core.wire import ByteReader

BITS = {"F32": (8, 23), "F16": (5, 10), "BF16": (8, 7), "F8_E4M3": (4, 3), "F8_E5M2": (5, 2)}


def decode(dtype: str, body: bytes, numel: int) -> list[int]:
    """Patterns of all elements."""
    reader = ByteReader(body, "plain")
    n, groups = reader.varint(), reader.u8()
    m = numel // n
    member = [0] * m
    if groups == 2:
        packed = bytes(reader.raw(-(-m // 8)))
        member = [packed[i // 8] >> (i % 8) & 1 for i in range(m)]
    rows: list[list[int]] = [[] for _ in range(m)]
    for number in range(groups):
        mine = [i for i in range(m) if member[i] == number]
        for i, row in zip(mine, _group(reader, dtype, len(mine), n), strict=True):
            rows[i] = row
    reader.end()
    return [pattern for row in rows for pattern in row]


def _scales(reader: ByteReader, size: int) -> list[int]:
    kind, centre = reader.u8(), reader.zigzag()
    if not kind:
        return [centre] * size
    data, k = bytes(reader.raw(reader.varint())), kind - 1
    bits = iter(byte >> i & 1 for byte in data for i in range(8))
    found = []
    for _ in range(size):
        z = 0
        while next(bits):
            z += 1
        z = z << k | sum(next(bits) << i for i in range(k))
        found.append(centre + (z // 2 if z % 2 == 0 else -(z + 1) // 2))
    return found


def _tables(reader: ByteReader) -> npt.NDArray[np.int64]:
    freq = np.zeros((8, 256), np.int64)
    freq[:, 0] = 1 << 14
    present = reader.u8()
    for f in range(8):
        if present >> f & 1:
            freq[f] = 0
            first, last = reader.u8(), reader.u8()
            a = 0
            for symbol, step in enumerate(_scales(reader, last - first + 1), first):
                a += step
                freq[f, symbol] = a if a < 8 else (8 + a % 8) << (a // 8 - 1)
            rest = reader.u8()
            freq[f, rest] = 0
            freq[f, rest] = (1 << 14) - freq[f].sum()
    return freq


def _group(reader: ByteReader, dtype: str, m: int, n: int) -> list[list[int]]:
    exponent, mantissa = BITS[dtype]
    c = min(3, mantissa)
    dead, sign, lanes, base, base_level = reader.u8(), reader.u8(), reader.u8(), reader.zigzag(), reader.zigzag()
    row_shift, column_shift = reader.u8(), reader.u8()
    row, column = _scales(reader, m), _scales(reader, n)
    family = reader.u8()
    freq = learned_families()[family - 1].freq if family else _tables(reader)
    lines = reader.varint()
    starts = range(0, m, lines)
    sizes = [(reader.varint(), reader.varint()) for _ in starts]
    low = mantissa - c - dead
    b = low + (sign == 2)
    out: list[list[int]] = []
    for start, (words, escapes) in zip(starts, sizes, strict=True):
        count = (min(start + lines, m) - start) * n
        x = np.frombuffer(reader.raw(4 * lanes), "<u4").tolist()
        word = iter(np.frombuffer(reader.raw(2 * words), "<u2").tolist())
        escape = iter(np.frombuffer(reader.raw(2 * escapes), "<u2").tolist())
        raw, at = [0] * count, 0
        for width in (16, 8, 4, 2, 1):
            if b & width:
                for p, bits in enumerate(_plane(reader, width, count, lanes)):
                    raw[p] |= bits << at
                at += width
        patterns = []
        for p in range(count):
            level = base_level + (row[start + p // n] << row_shift) + (column[p % n] << column_shift)
            level = min(max(level, 0), 255)
            top = _symbol(x, p % lanes, freq[level % 8], word)
            top = next(escape) if top == 0 else 0 if top == 1 else top + (level // 8 << c) + base
            negative = raw[p] >> low if sign == 2 else sign
            patterns.append(
                negative << (exponent + mantissa) | top << (mantissa - c) | (raw[p] & ((1 << low) - 1)) << dead
            )
        assert set(x) == {1 << 16} and not [*word, *escape]
        out += [patterns[i : i + n] for i in range(0, count, n)]
    return out


def _symbol(x: list[int], lane: int, freq: npt.NDArray[np.int64], word: Any) -> int:
    slot = x[lane] % (1 << 14)
    symbol = int(np.searchsorted(np.cumsum(freq), slot, side="right"))
    x[lane] = int(freq[symbol]) * (x[lane] >> 14) + slot - int(freq[:symbol].sum())
    if x[lane] < 1 << 16:
        x[lane] = x[lane] << 16 | next(word)
    return symbol


def _plane(reader: ByteReader, width: int, count: int, lanes: int) -> list[int]:
    if width >= 8:
        return np.frombuffer(reader.raw(count * width // 8), f"<u{width // 8}").tolist()
    per_byte = 8 // width
    places = [(p // lanes // per_byte * lanes + p % lanes, p // lanes % per_byte * width) for p in range(count)]
    data = bytes(reader.raw(max(byte for byte, _ in places) + 1))
    return [data[byte] >> shift & ((1 << width) - 1) for byte, shift in places]
