"""Mutations of sound inputs, without coverage: what is used where atheris is not installed, and by the fast tests."""

from __future__ import annotations

import random

# Values at which sizes, counts and signs tip over.
_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_NUMBERS = (
    b"-1",
    b"0",
    b"1e400",
    b"9223372036854775807",
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"{}",
    b"[]",
    b'""',
)
_VARINTS = (b"\x00", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 9, b"\x80" * 9 + b"\x01")


def mutate(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four changes; half of them near the beginning, where sizes and headers are."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        limit = len(out) if chance.random() < 0.5 else min(len(out), 64)
        at = chance.randrange(limit) if limit else 0
        size = min(chance.choice([1, 1, 2, 4, 8, 33]), len(out) - at)
        match chance.randrange(9):
            case 0 if out:
                out[at] ^= 1 << chance.randrange(8)
            case 1 if out:
                out[at] = chance.choice(_BYTES)
            case 2:
                del out[at:]
            case 3:
                out[at:at] = chance.randbytes(chance.randint(1, 9))
            case 4:
                del out[at : at + size]
            case 5:
                out[at:at] = out[at : at + size] * chance.choice([1, 2, 50])
            case 6:
                out[at : at + size] = chance.choice(_VARINTS)
            case 7:
                out[at : at + size] = chance.choice(_NUMBERS)
            case _ if other:
                start = chance.randrange(len(other))
                out[at : at + size] = other[start : start + chance.randint(1, 64)]
    return bytes(out)
