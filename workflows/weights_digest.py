"""One digest for all weights of a model, whether they are in memory or read piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def weights_digest(tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...], Iterable[bytes | memoryview]]]) -> str:
    """SHA-256 (hex) of tensors: name, element type, shape and the elements' bytes, in pieces of any size; in any order."""
    digest = hashlib.sha256()
    for name, dtype, shape, pieces in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(repr((name, str(dtype), tuple(shape))).encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()
