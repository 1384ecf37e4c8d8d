"""The artifact again with other values in tensors that it stores without loss; all other blocks keep their bytes.

The index goes on naming the digest of the source's elements, and its error says how far the stored ones are from them: that
is how a tuned tensor is told from a damaged one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nwc_core.artifact.index import BlockRow, read_index, write_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.payload import block_name, build_payload
from nwc_core.artifact.reader import Artifact
from nwc_core.artifact.writer import commit, put_object
from nwc_core.encoded import EncodedTensor
from nwc_core.lossless import encode_lossless
from nwc_core.store import Store

if TYPE_CHECKING:
    import torch

RECOVERED = "recover_minutes"  # in a manifest's job: there was a recovery, whether it found anything better or not


def rewrite(
    store: Store, tensors: Mapping[str, torch.Tensor], fits: Callable[[Manifest], bool] = lambda manifest: True
) -> Manifest | None:
    """Replace an artifact in its place, which nobody else knows yet.

    Args:
        store: with a finished artifact.
        tensors: new values by name, of the stored type and shape.
        fits: whether an artifact of such a manifest may be.

    Returns:
        The new manifest, which is committed; None if it does not fit: then the artifact stays what it was.
    """
    artifact = Artifact(store)
    old, numbers = artifact.manifest, _numbers(artifact)
    rows: dict[tuple[str, int], BlockRow] = {(row.tensor, row.start): row for row in artifact.index}
    payloads: list[ObjectRef] = []
    for ref in old.payloads:
        of_payload = sorted((row for row in artifact.index if row.object == ref.object), key=lambda row: row.offset)
        if not any(row.tensor in tensors for row in of_payload):
            payloads.append(ref)
            continue
        data = artifact.read_object(ref)
        streams = {row: data[row.offset : row.offset + row.length] for row in of_payload}
        errors = {row: row.mse for row in of_payload}
        for row in of_payload:
            if row.tensor in tensors:
                streams[row], errors[row] = _recoded(artifact, row, streams[row], tensors[row.tensor])
        kept: dict[
            tuple[int, bytes], str
        ] = {}  # copies, which lie at one place, stay together as long as they are alike
        for row in of_payload:
            kept.setdefault((row.offset, streams[row]), block_name(row.tensor, numbers[row.tensor, row.start]))
        payload = build_payload([(name, stream) for (_, stream), name in kept.items()])
        payloads.append(put_object(store, "payload", payload.data))
        ranges = dict(zip(kept, payload.ranges, strict=True))
        for row in of_payload:
            offset, length = ranges[row.offset, streams[row]]
            coder = EncodedTensor.from_bytes(streams[row]).coder
            rows[row.tensor, row.start] = replace(
                row,
                coder=coder,
                object=payloads[-1].object,
                offset=offset,
                length=length,
                sha256=hashlib.sha256(streams[row]).digest(),
                mse=errors[row],
            )
    index = write_index(list(rows.values()))
    manifest = old.model_copy(
        update={
            "index": put_object(store, "index", index),
            "payloads": payloads,
            "counts": old.counts.model_copy(update={"payload_bytes": sum(ref.size for ref in payloads)}),
            "fingerprint": tuned_fingerprint(old.fingerprint, rows.values()),
        }
    )
    read_index(index, manifest, "the new index")
    if not fits(manifest):
        for key in _objects(manifest) - _objects(old):
            store.delete(key)
        return None
    store.delete(MANIFEST_KEY)
    commit(store, manifest)
    for key in _objects(old) - _objects(manifest):
        store.delete(key)
    return manifest


def tuned_fingerprint(fingerprint: str, rows: Iterable[BlockRow]) -> str:
    """Of an artifact that has this fingerprint but for the values of its tuned tensors; the same if it has none.

    Args:
        fingerprint: of source, options and codec.
        rows: of the index, in order.
    """
    tuned = [row.sha256 for row in rows if row.tuned]
    return hashlib.sha256(fingerprint.encode() + b"".join(tuned)).hexdigest() if tuned else fingerprint


def _recoded(artifact: Artifact, row: BlockRow, stream: bytes, tensor: torch.Tensor) -> tuple[bytes, float]:
    """A block with the new values, and its mean squared error against the old ones, which are the source's."""
    before = artifact.decode_bytes(row, stream)
    after = tensor.flatten()[row.start : row.stop].reshape(before.shape)
    error = float((after.float() - before.float()).double().square().mean())  # as `verify` counts
    return encode_lossless(after).to_bytes(), error


def _objects(manifest: Manifest) -> set[str]:
    return {manifest.index.object, *(ref.object for ref in manifest.payloads)}


def _numbers(artifact: Artifact) -> dict[tuple[str, int], int]:
    """Of each block, its number in its tensor."""
    return {
        (name, row.start): number
        for name in artifact.index.names()
        for number, row in enumerate(artifact.index.blocks(name))
    }
