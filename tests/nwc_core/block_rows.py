"""Rows of an index of which only the place counts."""

from __future__ import annotations

from nwc_core.artifact.index import BlockRow


def block(offset: int, length: int, key: str = "payload") -> BlockRow:
    return BlockRow(
        *("t", "F32", (1,), "f", 0, 1, "raw", key),
        *(offset, length, b"", b"", 0, 0.0),
    )
