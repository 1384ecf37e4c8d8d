"""Decompressing an artifact: the checkpoint again, same files, same shards, same tensors and types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.manifest import CarriedFile
from nwc_core.artifact.objects import check_object
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import AlreadyExistsError, NotFoundError
from nwc_core.lossless import tensor_bytes
from nwc_core.safetensors_header import build_header
from nwc_core.store import Store


@dataclass(frozen=True)
class Restored:
    """One file written: its path in the checkpoint and its size in bytes."""

    path: str
    size: int


def decompress(
    artifact: Artifact, destination: Store, *, on_progress: Callable[[int], None] = lambda nbytes: None
) -> list[Restored]:
    """Write the checkpoint that an artifact was made from.

    Weight files are streamed block by block, so memory holds one block at a time whatever the size of a shard.

    Args:
        artifact: to read.
        destination: must hold none of the checkpoint's files yet.
        on_progress: called with bytes as they are written.

    Raises:
        AlreadyExistsError: a file is there already; nothing was written.
        IntegrityError, FormatError: the artifact is damaged; the file at hand was not written.
    """
    manifest = artifact.manifest
    for path in [file.path for file in manifest.weight_files] + [file.path for file in manifest.files]:
        if _exists(destination, path):
            raise AlreadyExistsError(
                f"{destination.uri}/{path}", "already exists; nothing was written; choose another destination"
            )
    for carried in manifest.files:  # before anything is written: it takes no time, unlike the weights
        _carried(artifact, carried)
    restored = []
    rows: dict[str, list[BlockRow]] = {file.path: [] for file in manifest.weight_files}
    for row in artifact.index:
        rows[row.file].append(row)
    for file in manifest.weight_files:
        size = 0

        def chunks(of: list[BlockRow] = rows[file.path], metadata: dict[str, str] = file.metadata) -> Iterator[bytes]:
            nonlocal size
            for chunk in _safetensors(artifact, of, metadata):
                size += len(chunk)
                on_progress(len(chunk))
                yield chunk

        destination.put_stream(file.path, chunks())
        restored.append(Restored(file.path, size))
    for carried in manifest.files:  # after the weights: a folder with a config.json looks like a model
        data = _carried(artifact, carried)
        destination.put(carried.path, data)
        on_progress(len(data))
        restored.append(Restored(carried.path, len(data)))
    return restored


def _carried(artifact: Artifact, file: CarriedFile) -> bytes:
    """The content of a carried file, digest checked."""
    data = artifact.store.get(file.object)
    check_object(data, file.size, file.sha256, f"{artifact.store.uri}/{file.object}")
    return data


def _exists(store: Store, key: str) -> bool:
    try:
        store.size(key)
    except NotFoundError:
        return False
    return True


def _safetensors(artifact: Artifact, rows: list[BlockRow], metadata: dict[str, str]) -> Iterator[bytes]:
    """A safetensors file of the tensors of these rows, in their order."""
    first = [row for row in rows if row.start == 0]
    yield build_header([(row.tensor, row.dtype, row.shape) for row in first], metadata)
    for row in rows:
        yield tensor_bytes(artifact.decode_block(row)).tobytes()
