"""The files that an artifact carries besides the weights: described before any work, written at its end.

Everything is carried byte for byte. What transformers looks for lies at the artifact's root, the rest below source/,
where no name can collide; config.json is there as it was and, at the root, as transformers needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from nwc_core.artifact.manifest import CarriedFile, DerivedFile
from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import Store
from nwc_workflows.sources import Checkpoint

# What config.json gains for transformers. No file has the name that it gives for the weights: `nwc_core.hf` answers to it,
# and where nobody imported that, transformers' message that there is no such file says what to do.
FOR_TRANSFORMERS = {
    "quantization_config": {"quant_method": "nwc", "format": "nwc-artifact", "version": 1},
    "transformers_weights": "import-nwc_core.hf-to-load-this.safetensors",
}
_CONFIG = "config.json"
_AT_ROOT = ("generation_config.json", "preprocessor_config.json", "processor_config.json", "merges.txt")
_AT_ROOT_PREFIXES = (
    "tokenizer",
    "special_tokens_map",
    "added_tokens",
    "chat_template",
    "sentencepiece",
    "spiece",
    "vocab",
)


@dataclass(frozen=True)
class Carried:
    """What the artifact will hold: `files` of the checkpoint, and `derived` ones, made for other tools."""

    files: tuple[CarriedFile, ...]
    derived: tuple[DerivedFile, ...]


def describe_files(checkpoint: Checkpoint) -> Carried:
    """Read the checkpoint's other files once, for their digests."""
    files, derived = [], []
    for info in checkpoint.other_files:
        data = checkpoint.store.get(info.key)
        key = info.key if _belongs_at_root(info.key) else f"source/{info.key}"
        files.append(CarriedFile(path=info.key, object=key, size=len(data), sha256=_sha256(data)))
    config = _derived_config(checkpoint)
    if config is not None:
        derived.append(DerivedFile(object=_CONFIG, size=len(config), sha256=_sha256(config)))
    return Carried(tuple(files), tuple(derived))


def check_free(carried: Carried, destination: Store) -> None:
    """Whether all of it can be written: these names are not made from content, so somebody's file may have one.

    Raises:
        AlreadyExistsError: other content has one of the names; nothing was written.
    """
    items: list[CarriedFile | DerivedFile] = [*carried.files, *carried.derived]
    for item in items:
        try:
            same = destination.size(item.object) == item.size and _sha256(destination.get(item.object)) == item.sha256
        except NotFoundError:
            continue
        if not same:
            raise AlreadyExistsError(
                f"{destination.uri}/{item.object}",
                "the destination holds another file of this name; nothing was changed; choose another destination",
            )


def write_files(carried: Carried, checkpoint: Checkpoint, destination: Store) -> None:
    """Write what `describe_files` described; what is there already, with the same content, stays.

    Raises:
        StoreError: a file of the checkpoint is not what it was.
        AlreadyExistsError: somebody was faster, with other content.
    """
    for key, path, sha256, data in _contents(carried, checkpoint):
        if _sha256(data) != sha256:
            raise StoreError(f"{checkpoint.store.uri}/{path}", "changed while the checkpoint was being compressed")
        try:
            destination.create(key, data)
        except AlreadyExistsError as error:
            if destination.get(key) != data:
                raise AlreadyExistsError(error.key, "another file of this name appeared in the meantime") from None


def _contents(carried: Carried, checkpoint: Checkpoint) -> Iterator[tuple[str, str, str, bytes]]:
    """(key, path in the checkpoint, SHA-256 that it had, content), one at a time."""
    for file in carried.files:
        yield file.object, file.path, file.sha256, checkpoint.store.get(file.path)
    for made in carried.derived:
        yield made.object, _CONFIG, made.sha256, _derived_config(checkpoint) or b""


def _derived_config(checkpoint: Checkpoint) -> bytes | None:
    if checkpoint.config is None:
        return None
    return json.dumps({**checkpoint.config, **FOR_TRANSFORMERS}, indent=2).encode() + b"\n"


def _belongs_at_root(path: str) -> bool:
    return path in _AT_ROOT or ("/" not in path and path.startswith(_AT_ROOT_PREFIXES))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
