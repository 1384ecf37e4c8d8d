"""One small artifact that holds every coder and every kind of object, as a dict of objects, and pieces to rebuild it.

Small, so that thousands of damaged copies can be read; whole, so that no kind of damage lacks a place to happen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import torch
from artifact_samples import MemoryStore, cuts
from codec_samples import gaussian, sample_codec

from nwc_core.artifact.index import BlockRow, read_index, write_index
from nwc_core.artifact.manifest import MANIFEST_KEY, CarriedFile, Counts, DerivedFile, Manifest, WeightFile
from nwc_core.artifact.objects import ObjectRef, name_from_digest
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.writer import commit, put_object
from nwc_core.dtypes import from_torch
from nwc_core.lossless import tensor_bytes

Objects = dict[str, bytes]
SHARD = "model.safetensors"
CARRIED = {"tokenizer.json": b'{"tokens": []}\n' * 20, "source/notes/README.md": b"notes\n" * 30}
CONFIG = b'{"quantization_config": {"quant_method": "nwc"}}\n'


@cache
def tensors() -> dict[str, torch.Tensor]:
    """Coded by nwc (plain, with the transform, with escapes, several blocks), by zstd, and raw."""
    outlier = gaussian(40, 40, seed=3)
    outlier[3, 3] = 5e4
    smooth = 0.3 * gaussian(16, 8, 3, 3) + gaussian(16, 8, 1, 1, seed=1)
    return {
        "layers.0.weight": gaussian(96, 40) * torch.logspace(-1, 1, 96)[:, None],
        "layers.1.weight": gaussian(96, 40, seed=2),
        "conv.weight": smooth,
        "outlier": outlier.double(),
        "experts": gaussian(2, 64, 64, seed=4).to(torch.bfloat16),
        "position_ids": torch.arange(500, dtype=torch.int32),
        "norm": gaussian(20, seed=5),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
    }


@cache
def intact(bits: float = 4.0) -> Objects:
    """The artifact; another rate makes another one of the same tensors. Not to be changed."""
    store = MemoryStore()
    rows: list[BlockRow] = []
    payloads: list[ObjectRef] = []
    pending = [
        (name, number, start, stop, part, tensor)
        for name, tensor in tensors().items()
        for number, (start, stop, part) in enumerate(cuts(tensor, 1000 if tensor.ndim == 1 else 48))
    ]
    for first in range(0, len(pending), 4):
        group = pending[first : first + 4]
        coded = [sample_codec().encode(item[4], bits) for item in group]
        payload = build_payload(
            [(block_name(item[0], item[1]), block.to_bytes()) for item, block in zip(group, coded, strict=True)]
        )
        payloads.append(put_object(store, "payload", payload.data))
        for (name, _, start, stop, part, tensor), block, (offset, length) in zip(
            group, coded, payload.ranges, strict=True
        ):
            rows.append(
                BlockRow(
                    tensor=name,
                    dtype=from_torch(tensor.dtype).name,
                    shape=tuple(tensor.shape),
                    file=SHARD,
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
    assert {row.coder for row in rows} == {"nwc", "zstd", "raw"}
    store.objects |= {**CARRIED, "config.json": CONFIG}
    commit(store, _manifest(store, rows, payloads))
    return store.objects


def _manifest(store: MemoryStore, rows: list[BlockRow], payloads: list[ObjectRef]) -> Manifest:
    return Manifest(
        codec=put_object(store, "codec", sample_codec().to_bytes()),
        index=put_object(store, "index", write_index(rows)),
        payloads=payloads,
        files=[
            CarriedFile(path=key.removeprefix("source/"), object=key, size=len(data), sha256=_sha256(data))
            for key, data in CARRIED.items()
        ],
        derived=[DerivedFile(object="config.json", size=len(CONFIG), sha256=_sha256(CONFIG))],
        weight_files=[WeightFile(path=SHARD, size=1 << 20, metadata={"format": "pt"})],
        skipped=[],
        counts=Counts(
            tensors=len(tensors()),
            weights=sum(row.numel for row in rows),
            blocks=len(rows),
            payload_bytes=sum(ref.size for ref in payloads),
        ),
        job={"bits": 4.0, "preset": "default"},
        fingerprint="ab" * 32,
    )


def manifest_of(objects: Objects) -> Manifest:
    """The manifest of an artifact that is sound."""
    return Manifest.from_bytes(objects[MANIFEST_KEY])


def rows_of(objects: Objects) -> list[BlockRow]:
    """The rows of the index of an artifact that is sound."""
    manifest = manifest_of(objects)
    return list(read_index(objects[manifest.index.object], manifest, "index"))


def resealed(objects: Objects, kind: str, data: bytes, **changes: object) -> Objects:
    """The artifact with another codec or index and a manifest that vouches for it; `changes` go to the manifest too.

    What a hostile author can do and an accident cannot: every digest is right.
    """
    sha256 = _sha256(data)
    ref = ObjectRef(object=name_from_digest(kind, sha256), size=len(data), sha256=sha256)  # type: ignore[arg-type]
    manifest = manifest_of(objects).model_copy(update={kind: ref, **changes})
    return {**objects, ref.object: data, MANIFEST_KEY: manifest.to_bytes()}


def with_block(objects: Objects, tensor: str, change: Callable[[bytes], bytes], **row_changes: object) -> Objects:
    """The artifact with the only block of a tensor replaced, and payload, index and manifest made to agree with it."""
    rows = rows_of(objects)
    target = next(row for row in rows if row.tensor == tensor)
    inside = [row for row in rows if row.object == target.object]
    old = objects[target.object]
    numbered = {(row.tensor, row.start): number for name in {r.tensor for r in rows}
                for number, row in enumerate(r for r in rows if r.tensor == name)}  # fmt: skip
    blocks = []
    for row in inside:
        data = old[row.offset : row.offset + row.length]
        blocks.append(
            (block_name(row.tensor, numbered[row.tensor, row.start]), change(data) if row is target else data)
        )
    return _with_payload(objects, rows, inside, target, blocks, row_changes)


def _with_payload(
    objects: Objects,
    rows: list[BlockRow],
    inside: list[BlockRow],
    target: BlockRow,
    blocks: list[tuple[str, bytes]],
    row_changes: dict[str, object],
) -> Objects:
    from dataclasses import replace

    payload = build_payload(blocks)
    sha256 = _sha256(payload.data)
    ref = ObjectRef(object=name_from_digest("payload", sha256), size=len(payload.data), sha256=sha256)
    moved = {
        id(row): replace(
            row,
            object=ref.object,
            offset=offset,
            length=length,
            sha256=hashlib.sha256(data).digest(),
            side_nbytes=min(row.side_nbytes, length),
            **(row_changes if row is target else {}),  # type: ignore[arg-type]
        )
        for row, (offset, length), (_, data) in zip(inside, payload.ranges, blocks, strict=True)
    }
    rows = [moved.get(id(row), row) for row in rows]
    manifest = manifest_of(objects)
    payloads = [ref if p.object == target.object else p for p in manifest.payloads]
    counts = manifest.counts.model_copy(
        update={"payload_bytes": sum(p.size for p in payloads), "weights": sum(row.numel for row in rows)}
    )
    kept = {key: data for key, data in objects.items() if key != target.object}
    return resealed({**kept, ref.object: payload.data}, "index", write_index(rows), payloads=payloads, counts=counts)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
