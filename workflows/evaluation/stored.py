"""A model where it lies, artifact or checkpoint, local or in an object store: its size, its small files, its weights.

The weights of an artifact are decoded straight into memory; only the small files (configuration, tokenizer) are ever
written to disk, into a temporary folder, since transformers reads them from nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nwc_core.artifact.manifest import FORMAT, MANIFEST_KEY, MAX_MANIFEST_BYTES
from nwc_core.artifact.objects import check_object
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import FormatError, NotFoundError
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown
from nwc_workflows.inspect import artifact_nbytes
from nwc_workflows.source_files import CONFIG
from nwc_workflows.sources import open_checkpoint, read_bytes, to_tensor

if TYPE_CHECKING:
    import torch

# What transformers reads to configure a model, a tokenizer or an image processor. No *.py: code that comes with a
# checkpoint is never run.
_SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe")


@dataclass(frozen=True)
class StoredModel:
    """A model that was opened; no weight is read yet.

    Attributes:
        uri: where it is.
        nbytes: bytes of all that holds weights; of an artifact payloads, index, codec and manifest.
        weights: number of elements of all tensors.
        fingerprint: an artifact's own; None for a checkpoint.
        config: the checkpoint's config.json; None if there is none.
        files: small files at the checkpoint's root, by name, each read when called.
        state: reads all tensors, by name, with the shapes and types of the checkpoint.
    """

    uri: str
    nbytes: int
    weights: int
    fingerprint: str | None
    config: dict[str, Any] | None
    files: Mapping[str, Callable[[], bytes]]
    state: Callable[[], dict[str, torch.Tensor]]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """The small files in a temporary folder, as long as the `with` block lasts."""
        with TemporaryDirectory(prefix="nwc-") as name:
            for path, read in self.files.items():
                (Path(name) / path).write_bytes(read())
            yield Path(name)


def open_model(location: str) -> StoredModel:
    """Open an artifact, the folder of a checkpoint, or a safetensors file, by path or URI.

    Raises:
        NotFoundError: nothing is there.
        FormatError, IntegrityError, VersionError: it is neither artifact nor checkpoint, or damaged.
        UnsupportedSourceError: its weights are in a format that nwc refuses.
    """
    store = open_store(location, "source")
    return _open_artifact(Artifact(store)) if _is_artifact(store) else _open_checkpoint(location)


def _is_artifact(store: Store) -> bool:
    """Whether manifest.json is one of ours: a checkpoint's folder may hold another tool's."""
    try:
        return store.size(MANIFEST_KEY) <= MAX_MANIFEST_BYTES and f'"{FORMAT}"'.encode() in store.get(MANIFEST_KEY)
    except NotFoundError:
        return False


def _open_artifact(artifact: Artifact) -> StoredModel:
    manifest, uri = artifact.manifest, artifact.store.uri

    def read(key: str, size: int, sha256: str) -> bytes:
        data = artifact.store.get(key)
        check_object(data, size, sha256, f"{uri}/{key}")
        return data

    files = {
        file.path: partial(read, file.object, file.size, file.sha256)
        for file in manifest.files
        if _is_small_file(file.path)
    }
    sizes = artifact_nbytes(artifact)
    return StoredModel(
        uri=uri,
        nbytes=sum(size for kind, size in sizes.items() if kind != "files"),
        weights=manifest.counts.weights,
        fingerprint=manifest.fingerprint,
        config=_config(files[CONFIG](), f"{uri}: {CONFIG}") if CONFIG in files else None,
        files=files,
        state=lambda: artifact.get_tensors(artifact),
    )


def _open_checkpoint(location: str) -> StoredModel:
    checkpoint = open_checkpoint(location)
    store = checkpoint.store
    single = not checkpoint.other_files and len(checkpoint.weight_files) == 1
    return StoredModel(
        uri=f"{store.uri}/{checkpoint.weight_files[0].path}" if single else store.uri,
        nbytes=sum(file.size for file in checkpoint.weight_files),
        weights=sum(tensor.numel for tensor in checkpoint.tensors),
        fingerprint=None,
        config=checkpoint.config,
        files={info.key: partial(store.get, info.key) for info in checkpoint.other_files if _is_small_file(info.key)},
        state=lambda: {t.name: to_tensor(read_bytes(checkpoint, t), t.dtype, t.shape) for t in checkpoint.tensors},
    )


def _is_small_file(path: str) -> bool:
    return "/" not in path and path.endswith(_SMALL)


def _config(data: bytes, where: str) -> dict[str, Any]:
    """As lenient as transformers: real configurations hold Infinity."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(where, shown(str(error)), "a JSON object") from None
    if not isinstance(config, dict):
        raise FormatError(where, shown(config), "a JSON object")
    return config
