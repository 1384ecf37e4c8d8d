"""Decompressing an artifact: the checkpoint again, same files, same shards, same tensors and types."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.store import Store
from nwc_workflows.checkpoint_writer import WeightsFile, Written, carried_content, write_checkpoint


def decompress(
    artifact: Artifact, destination: Store, *, on_progress: Callable[[int], None] = lambda nbytes: None
) -> list[Written]:
    """Write the checkpoint that an artifact was made from.

    Args:
        artifact: to read.
        destination: must hold none of the checkpoint's files yet.
        on_progress: called with bytes as they are written.

    Raises:
        AlreadyExistsError: a file is there already; nothing was written.
        IntegrityError, FormatError: the artifact is damaged; the file at hand was not written.
    """
    manifest = artifact.manifest
    rows: dict[str, list[BlockRow]] = {file.path: [] for file in manifest.weight_files}
    for row in artifact.index:
        rows[row.file].append(row)
    weights = [WeightsFile(file.path, rows[file.path], file.metadata) for file in manifest.weight_files]
    others = [(file.path, partial(carried_content, artifact, file)) for file in manifest.files]
    return write_checkpoint(artifact, destination, weights, others, on_progress)
