"""Exporting an artifact: a plain checkpoint, sharded as wanted, that whatever loads safetensors loads.

Where `nwc decompress` gives back the files that there were, this gives the files that other tools expect: one
safetensors file, or shards and their index, under the names that transformers and diffusers look for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import AlreadyExistsError
from nwc_core.store import Store
from nwc_workflows.carried import FOR_TRANSFORMERS
from nwc_workflows.checkpoint_writer import OtherFile, WeightsFile, Written, carried_content, write_checkpoint
from nwc_workflows.float_types import BY_TORCH_NAME
from nwc_workflows.source_files import CONFIG, INDEX_SUFFIX, SAFETENSORS

DEFAULT_SHARD_NBYTES = 5_000_000_000
_STEM = "model"
# Names of a single file that its readers insist on, other than model.safetensors.
_OTHER_STEMS = ("adapter_model", "diffusion_pytorch_model")
_DTYPE_KEYS = ("dtype", "torch_dtype")  # of config.json: from transformers 5, and before


@dataclass(frozen=True)
class Export:
    """The files of an export, before anything is written.

    Attributes:
        stem: what the names of the weights begin with.
        weights, others: as in `write_checkpoint`.
    """

    stem: str
    weights: tuple[WeightsFile, ...]
    others: tuple[OtherFile, ...]

    def write(
        self, artifact: Artifact, destination: Store, on_progress: Callable[[int], None] = lambda nbytes: None
    ) -> list[Written]:
        """Write them; memory holds a few blocks at a time, see `write_checkpoint`.

        Raises:
            AlreadyExistsError: weights are there, under whatever number of shards; nothing was written.
        """
        for info in destination.list(self.stem):
            if info.key.endswith(SAFETENSORS) and "/" not in info.key:
                raise AlreadyExistsError(
                    f"{destination.uri}/{info.key}", "already exists; nothing was written; choose another destination"
                )
        return write_checkpoint(artifact, destination, self.weights, self.others, on_progress)


def plan_export(artifact: Artifact, max_shard_nbytes: int = DEFAULT_SHARD_NBYTES, dtype: DType | None = None) -> Export:
    """Decide on the files.

    Args:
        artifact: to read.
        max_shard_nbytes: of tensors in one file; a tensor that is larger has a file of its own.
        dtype: what floating-point tensors become; None leaves them as they are. Integers, booleans, complex numbers and
            8-bit floats stay in any case.

    Raises:
        IntegrityError: a carried file is damaged.
    """
    stem = _stem(artifact)
    shards = _shards(artifact, max_shard_nbytes, dtype)
    names = [f"{stem}{SAFETENSORS}"]
    if len(shards) > 1:
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}{SAFETENSORS}" for i in range(1, len(shards) + 1)]
    metadata = {"format": "pt", **artifact.metadata()}  # transformers refuses files that do not say
    weights = [WeightsFile(name, rows, metadata, dtype) for name, rows in zip(names, shards, strict=True)]
    others: list[OtherFile] = []
    for file in artifact.manifest.files:
        if file.path.endswith(INDEX_SUFFIX) and "/" not in file.path:
            continue  # of the shards that there were
        if file.path == CONFIG:
            config = _plain_config(carried_content(artifact, file), dtype)
            others.append((file.path, partial(bytes, config)))
        else:
            others.append((file.path, partial(carried_content, artifact, file)))
    if len(shards) > 1:
        others.append((f"{stem}{INDEX_SUFFIX}", partial(bytes, _index(weights))))
    return Export(stem, tuple(weights), tuple(others))


def _stem(artifact: Artifact) -> str:
    """What the weights are called, without shard number and suffix."""
    manifest = artifact.manifest
    indexes = [file.path for file in manifest.files if file.path.endswith(INDEX_SUFFIX) and "/" not in file.path]
    if indexes:
        return indexes[0].removesuffix(INDEX_SUFFIX)
    stems = [file.path.removesuffix(SAFETENSORS) for file in manifest.weight_files]
    return stems[0] if len(stems) == 1 and stems[0] in _OTHER_STEMS else _STEM


def _shards(artifact: Artifact, most: int, dtype: DType | None) -> list[list[BlockRow]]:
    """The tensors in stored order, as many in a shard as fit; at least one shard."""
    shards: list[list[BlockRow]] = [[]]
    filled = 0
    for name in artifact.index.names():
        rows = artifact.index.blocks(name)
        found = DTYPES[rows[0].dtype]
        kept = dtype if dtype is not None and found.lossy else found
        nbytes = sum(row.numel for row in rows) * kept.itemsize
        if shards[-1] and filled + nbytes > most:
            shards.append([])
            filled = 0
        shards[-1] += rows
        filled += nbytes
    return shards


def _index(weights: Sequence[WeightsFile]) -> bytes:
    """model.safetensors.index.json, as transformers writes it."""
    weight_map = {row.tensor: file.path for file in weights for row in file.rows}
    total = sum(file.size - len(file.header()) for file in weights)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2).encode() + b"\n"


def _plain_config(data: bytes, dtype: DType | None) -> bytes:
    """config.json without a word of nwc, and with the type that the weights have now; the same bytes if neither is new."""
    config: dict[str, Any] = json.loads(data)  # the checkpoint was opened by it: it is an object
    plain = _retyped(config, dtype) if dtype is not None else dict(config)
    plain = {
        key: value for key, value in plain.items() if key not in FOR_TRANSFORMERS or value != FOR_TRANSFORMERS[key]
    }
    return data if plain == config else json.dumps(plain, indent=2).encode() + b"\n"


def _retyped(config: dict[str, Any], dtype: DType) -> dict[str, Any]:
    """A configuration, and those of the parts of a model in it, with another type of weights."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DTYPE_KEYS and value in BY_TORCH_NAME:
            out[key] = dtype.torch_name
        elif isinstance(value, dict) and key != "quantization_config":
            out[key] = _retyped(value, dtype)
        else:
            out[key] = value
    return out
