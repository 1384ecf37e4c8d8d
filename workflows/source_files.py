"""What the files of a checkpoint's folder are: its weights, files to carry along, and what is left out and why.

Only names decide here, and the folder's own index; no weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nwc_core.errors import FormatError, UnsupportedSourceError
from nwc_core.store import ObjectInfo, Store
from nwc_core.strict_json import parse_json, shown

SAFETENSORS = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
MAX_JSON_NBYTES = 100_000_000  # as for a safetensors header: an index repeats the names of the headers

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_REASONS = {
    **dict.fromkeys(_PICKLES, "pickle: never loaded, since loading runs code that the file carries"),
    ".onnx": "ONNX: not read",
    ".onnx_data": "ONNX: not read",
    ".gguf": "GGUF: not read",
    ".h5": "TensorFlow or Keras: not read",
    ".tflite": "TensorFlow Lite: not read",
    ".msgpack": "Flax: not read",
    ".ot": "rust-bert: not read",
}
_CONVERT = (
    "safetensors weights; convert once, where the file is trusted: model.save_pretrained(folder) with transformers, "
    "or safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
)


@dataclass(frozen=True)
class Skipped:
    """What is left out: a file, or a hidden folder as a whole. `size` in bytes, of all its files for a folder."""

    path: str
    size: int
    reason: str


@dataclass(frozen=True)
class FolderPlan:
    """The files of a folder by what becomes of them.

    Attributes:
        weights: safetensors files of the checkpoint, in name order.
        shard_of: the index's claim, tensor name to file name; None without an index.
        index: key of the index, or None.
        other: files to carry byte for byte.
        skipped: what is left out.
    """

    weights: tuple[ObjectInfo, ...]
    shard_of: dict[str, str] | None
    index: str | None
    other: tuple[ObjectInfo, ...]
    skipped: tuple[Skipped, ...]


def unread_reason(name: str) -> str | None:
    """Why a file of weights is not read, by its suffix; None for every other file."""
    lowered = name.lower()
    return next((reason for suffix, reason in _REASONS.items() if lowered.endswith(suffix)), None)


def refuse_unread(where: str, names: Sequence[str]) -> NoReturn:
    """Raise UnsupportedSourceError for a checkpoint whose weights nwc does not read; the error says how to convert."""
    reasons = sorted({reason for name in names if (reason := unread_reason(name))})
    raise UnsupportedSourceError(where, f"only {_some(names)} ({'; '.join(reasons)})", _CONVERT)


def plan_folder(store: Store, listing: Iterable[ObjectInfo]) -> FolderPlan:
    """Sort a folder's files.

    An index decides which files are the weights; else model.safetensors is; else the only safetensors file is.

    Raises:
        FormatError: no weights, or no way to tell which files are, or an index that is wrong.
        UnsupportedSourceError: the only weights are in formats that nwc does not read.
    """
    files, skipped = _without_hidden_folders(listing)
    indexes = [key for key in files if key.endswith(INDEX_SUFFIX) and "/" not in key]
    index = _choose_index(store.uri, indexes)
    shard_of = None if index is None else _read_index(store, files, index)
    chosen = _choose_weights(store.uri, files) if shard_of is None else sorted(set(shard_of.values()))
    if index is not None and SINGLE in files and SINGLE not in chosen:
        wanted = "one of them: which of the two is the model differs between readers"
        raise FormatError(store.uri, f"both {SINGLE} and {index}, which names other files", wanted)

    other = []
    for key, info in files.items():
        if key in chosen:
            continue
        reason = _skip_reason(key, index, indexes)
        if reason:
            skipped.append(Skipped(key, info.size, reason))
        else:
            other.append(info)
    weights = tuple(files[key] for key in chosen)
    return FolderPlan(weights, shard_of, index, tuple(other), tuple(sorted(skipped, key=lambda entry: entry.path)))


def read_config(store: Store, files: Iterable[ObjectInfo]) -> dict[str, Any] | None:
    """The content of config.json, or None if it is not among the files.

    As lenient as transformers: real configurations hold Infinity.

    Raises:
        FormatError: it is not a JSON object.
    """
    info = next((info for info in files if info.key == CONFIG), None)
    if info is None:
        return None
    where = f"{store.uri}/{CONFIG}"
    try:
        config = json.loads(_read_small(store, info))
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(where, shown(str(error)), "a JSON object") from None
    return _as_object(config, where)


def _read_small(store: Store, info: ObjectInfo) -> bytes:
    if info.size > MAX_JSON_NBYTES:
        raise FormatError(f"{store.uri}/{info.key}", f"{info.size} bytes", f"JSON, {MAX_JSON_NBYTES} bytes at most")
    return store.get_range(info.key, 0, info.size)


def _as_object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(where, shown(value), "a JSON object")
    return value


def _without_hidden_folders(listing: Iterable[ObjectInfo]) -> tuple[dict[str, ObjectInfo], list[Skipped]]:
    files: dict[str, ObjectInfo] = {}
    hidden: dict[str, int] = {}
    for info in listing:
        folders = info.key.split("/")[:-1]
        depth = next((i for i, part in enumerate(folders) if part.startswith(".")), None)
        if depth is None:
            files[info.key] = info
        else:
            folder = "/".join(folders[: depth + 1])
            hidden[folder] = hidden.get(folder, 0) + info.size
    return files, [Skipped(folder, size, "hidden folder") for folder, size in hidden.items()]


def _choose_index(where: str, indexes: list[str]) -> str | None:
    if len(indexes) > 1 and f"model{INDEX_SUFFIX}" in indexes:
        return f"model{INDEX_SUFFIX}"  # the others index variants, such as model.fp16.safetensors.index.json
    if len(indexes) > 1:
        raise FormatError(where, f"{len(indexes)} index files ({_some(indexes)})", f"one, or model{INDEX_SUFFIX}")
    return indexes[0] if indexes else None


def _choose_weights(where: str, files: dict[str, ObjectInfo]) -> list[str]:
    """The weights of a folder without index."""
    anywhere = [key for key in files if key.endswith(SAFETENSORS)]
    top = [key for key in anywhere if "/" not in key]
    if SINGLE in top or len(top) == 1:
        return [SINGLE] if SINGLE in top else top
    if top:
        wanted = f"{SINGLE}, or an index (*{INDEX_SUFFIX}), or the path of one file"
        raise FormatError(where, f"{len(top)} safetensors files without an index ({_some(top)})", wanted)
    unread = [key for key in files if unread_reason(key)]
    if unread and (not anywhere or any("/" not in key for key in unread)):
        refuse_unread(where, unread)
    if anywhere:
        raise FormatError(where, f"safetensors files only in subfolders ({_some(anywhere)})", "one model's own folder")
    raise FormatError(where, f"no weights among {len(files)} files ({_some(list(files))})", f"*{SAFETENSORS}")


def _read_index(store: Store, files: dict[str, ObjectInfo], index: str) -> dict[str, str]:
    """The weight map of an index, whose every file name is one of the folder's safetensors files."""
    where = f"{store.uri}/{index}"
    weight_map = _as_object(parse_json(_read_small(store, files[index]), where), where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError(f"{where}: weight_map", shown(weight_map), "an object from tensor names to file names")
    for tensor, name in weight_map.items():
        if name in files and name.endswith(SAFETENSORS):
            continue
        at = f"{where}: tensor {shown(tensor)}"
        if unread_reason(name):
            raise UnsupportedSourceError(at, f"the shard {shown(name)}", _CONVERT)
        if name.startswith("/") or ".." in name.split("/") or "://" in name:
            raise FormatError(at, f"the shard {shown(name)}, outside of the folder", "a file beside the index")
        what = "no safetensors file" if name in files else "missing"
        raise FormatError(at, f"the shard {shown(name)}, which is {what}", f"a *{SAFETENSORS} file of the folder")
    return weight_map


def _skip_reason(key: str, index: str | None, indexes: list[str]) -> str | None:
    """Why a file that is none of the chosen weights is left out; None if it is to be carried along."""
    if key in indexes and key != index:
        return f"an index beside {index}, which counts"
    if not key.endswith(SAFETENSORS):
        return unread_reason(key)
    if "/" in key:
        return "safetensors in a subfolder: not part of this checkpoint"
    return f"safetensors that {index} does not name" if index else f"safetensors beside {SINGLE}"


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"
