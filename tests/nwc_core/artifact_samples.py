"""Small artifacts for the tests: a codec that needs no training, a store in memory, a writer that cuts by rows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.manifest import Counts, Manifest, WeightFile
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.writer import commit, put_object
from nwc_core.codec import Codec
from nwc_core.dtypes import from_torch
from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.lossless import encode_lossless, tensor_bytes
from nwc_core.prior import LEVEL_ZERO, OCTAVE, TABLE_LEVELS, Prior
from nwc_core.store import ObjectInfo, Upload


@cache
def gaussian_codec() -> Codec:
    """A codec whose tables are those of a Gaussian."""
    points = np.arange(-256, 257)
    levels = []
    for level in range(TABLE_LEVELS):
        sigma = max(2.0 ** ((level - LEVEL_ZERO) / OCTAVE), 0.2)
        density = np.exp(-0.5 * (points / sigma) ** 2) + 1e-12
        for q in (0, 1):
            density[points % 2 == q] /= density[points % 2 == q].sum()
        levels.append(density)
    return Codec(Prior.from_pmf([levels]), [], {"trained": "not at all"})


class MemoryStore:
    """A store in memory that counts its requests."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.uri = "memory://test"
        self.objects = dict(objects or {})
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[MemoryStore], tuple[dict[str, bytes]]]:
        return MemoryStore, (self.objects,)

    def _find(self, verb: str, key: str) -> bytes:
        self.requests.append((verb, key))
        if key not in self.objects:
            raise NotFoundError(f"{self.uri}/{key}", "no such object")
        return self.objects[key]

    def version(self, key: str) -> str:
        return hashlib.sha256(self._find("version", key)).hexdigest()

    def size(self, key: str) -> int:
        return len(self._find("size", key))

    def get(self, key: str) -> bytes:
        return self._find("get", key)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        data = self._find("range", key)
        if stop > len(data):
            raise StoreError(f"{self.uri}/{key}", f"{len(data)} bytes")
        return data[start:stop]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (ObjectInfo(key, len(data)) for key, data in sorted(self.objects.items()) if key.startswith(prefix))

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.requests.append(("put", key))
        self.objects[key] = bytes(data)

    def create(self, key: str, data: bytes | memoryview) -> None:
        with self._lock:
            if key in self.objects:
                raise AlreadyExistsError(f"{self.uri}/{key}", "already exists")
            self.objects[key] = bytes(data)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        return iter(())

    def abort(self, upload: Upload) -> None:
        pass


FILE = "model.safetensors"


def cuts(tensor: torch.Tensor, rows: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(start, stop, part) of the blocks of at most `rows` rows; a scalar or an empty tensor is one."""
    if tensor.ndim == 0 or not tensor.numel():
        yield 0, tensor.numel(), tensor
        return
    stride = tensor[0].numel()
    for low in range(0, tensor.shape[0], rows):
        part = tensor[low : low + rows]
        yield low * stride, low * stride + part.numel(), part


def make_rows(
    store: MemoryStore, tensors: dict[str, torch.Tensor], rows: int = 4, bits: float | None = None
) -> tuple[list[BlockRow], list[ObjectRef]]:
    """Code and store tensors, one payload for every three blocks. `bits` None codes without loss."""
    pending = [
        (name, number, start, stop, part, tensor)
        for name, tensor in tensors.items()
        for number, (start, stop, part) in enumerate(cuts(tensor, rows))
    ]
    found: list[BlockRow] = []
    payloads: list[ObjectRef] = []
    for first in range(0, len(pending), 3):
        group = pending[first : first + 3]
        coded = [encode_lossless(item[4]) if bits is None else gaussian_codec().encode(item[4], bits) for item in group]
        payload = build_payload(
            [(block_name(item[0], item[1]), block.to_bytes()) for item, block in zip(group, coded, strict=True)]
        )
        payloads.append(put_object(store, "payload", payload.data))
        for (name, _, start, stop, part, tensor), block, (offset, length) in zip(
            group, coded, payload.ranges, strict=True
        ):
            found.append(
                BlockRow(
                    tensor=name,
                    dtype=from_torch(tensor.dtype).name,
                    shape=tuple(tensor.shape),
                    file=FILE,
                    start=start,
                    stop=stop,
                    coder=block.coder,
                    object=payloads[-1].object,
                    offset=offset,
                    length=length,
                    sha256=hashlib.sha256(payload.data[offset : offset + length]).digest(),
                    source_sha256=hashlib.sha256(tensor_bytes(part).tobytes()).digest(),
                    side_nbytes=block.side_nbytes,
                    mse=block.mse or 0.0,
                )
            )
    return found, payloads


def make_manifest(store: MemoryStore, rows: list[BlockRow], payloads: list[ObjectRef]) -> Manifest:
    """Store codec and index, and name everything."""
    return Manifest(
        codec=put_object(store, "codec", gaussian_codec().to_bytes()),
        index=put_object(store, "index", write_index(rows)),
        payloads=payloads,
        files=[],
        derived=[],
        weight_files=[WeightFile(path=FILE, size=1 << 20, metadata={"format": "pt"})],
        skipped=[],
        counts=Counts(
            tensors=len({row.tensor for row in rows}),
            weights=sum(row.numel for row in rows),
            blocks=len(rows),
            payload_bytes=sum(ref.size for ref in payloads),
        ),
        job={"bits": 4.0, "preset": "default"},
        fingerprint="ab" * 32,
    )


def make_artifact(
    tensors: dict[str, torch.Tensor], rows: int = 4, bits: float | None = None, store: MemoryStore | None = None
) -> MemoryStore:
    """A committed artifact."""
    store = store or MemoryStore()
    commit(store, make_manifest(store, *make_rows(store, tensors, rows, bits)))
    return store
