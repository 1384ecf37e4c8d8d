"""Checkpoints as they come: one safetensors file, a sharded checkpoint with its index, a Hugging Face model folder.

Opening reads the headers and the index, never weights, and checks them against each other and against the files'
true sizes. All bytes come through a store, so a folder and an object store are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nwc_core.dtypes import DType
from nwc_core.errors import FormatError, NotFoundError, StoreError, UsageError
from nwc_core.safetensors_header import Header, parse_header
from nwc_core.store import ObjectInfo, Store, open_store
from nwc_core.strict_json import shown
from nwc_infra.stores.local import LocalStore
from nwc_workflows.source_files import (
    SAFETENSORS,
    FolderPlan,
    Skipped,
    plan_folder,
    read_config,
    refuse_unread,
    unread_reason,
)

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")
N_READERS = 8  # headers read at once: each costs two round trips of an object store, and a checkpoint has up to 200


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file.

    Attributes:
        path: in the checkpoint's store.
        size: in bytes.
        metadata: of its header.
        version: the store's, from before the header was read; another one later means another file.
    """

    path: str
    size: int
    metadata: dict[str, str]
    version: str


@dataclass(frozen=True)
class SourceTensor:
    """One tensor where it lies.

    Attributes:
        name: unique in the checkpoint.
        dtype: element type.
        shape: dimensions; () for a scalar.
        file: path of its WeightFile.
        start: offset of its first byte in the file.
        stop: offset behind its last byte.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in the file, bytes."""
        return self.stop - self.start

    @property
    def numel(self) -> int:
        """Number of elements; the product of the dimensions, as its header's parser made sure."""
        return self.nbytes // self.dtype.itemsize


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and found consistent. It can be pickled.

    Attributes:
        store: rooted at the checkpoint's folder; all paths are keys of it.
        weight_files: the safetensors files, in name order.
        tensors: in order of file, then of place in the file.
        other_files: files that belong to the checkpoint and are carried byte for byte.
        skipped: what was left out, and why.
        config: the content of config.json, None if there is none.
    """

    store: Store
    weight_files: tuple[WeightFile, ...]
    tensors: tuple[SourceTensor, ...]
    other_files: tuple[ObjectInfo, ...]
    skipped: tuple[Skipped, ...]
    config: dict[str, Any] | None


def open_checkpoint(source: str | Path | Store) -> Checkpoint:
    """Open a checkpoint: URI or path of a safetensors file or of a folder, or a store rooted at the folder.

    Raises:
        NotFoundError: nothing is there.
        UnsupportedSourceError: its weights are pickles, or in another format that nwc refuses; says what to do.
        FormatError: it is damaged, contradicts itself, or is no checkpoint.
        StoreError: a file cannot be read.
        UsageError: no store is known for the URI's scheme.
    """
    store = open_store(source, "source")
    listing = list(store.list())
    if listing:
        return _open_folder(store, listing)
    if isinstance(store, LocalStore) and store.path.is_dir():
        raise FormatError(store.uri, "an empty folder", "a checkpoint")
    parent, _, name = store.uri.rpartition("/")
    if isinstance(source, str | Path) and name and not parent.endswith(":/"):  # "s3://bucket" has no parent
        try:
            return _open_file(open_store(f"{parent}/", "source"), name)
        except NotFoundError:
            pass
    raise NotFoundError(store.uri, "no such file or folder")


def read_bytes(checkpoint: Checkpoint, tensor: SourceTensor, first_element: int = 0, last: int | None = None) -> bytes:
    """Bytes of the elements [first_element, last) of a flattened tensor; all from first_element on without `last`.

    Raises:
        UsageError: the tensor has no such elements.
        StoreError: the file cannot be read, or is shorter than it was.
    """
    last = tensor.numel if last is None else last
    if not 0 <= first_element <= last <= tensor.numel:
        raise UsageError(f"tensor {tensor.name!r}: no elements [{first_element}, {last}) among {tensor.numel}")
    size = tensor.dtype.itemsize
    start = tensor.start
    return checkpoint.store.get_range(tensor.file, start + first_element * size, start + last * size)


def to_tensor(data: bytes, dtype: DType, shape: Iterable[int]) -> torch.Tensor:
    """A tensor of its own memory from the bytes of its elements in row-major order; bit for bit, any type and rank.

    Raises:
        FormatError: the bytes are not as many as the shape wants, or torch knows no such shape.
    """
    import torch

    dims = tuple(shape)
    nbytes = math.prod(dims) * dtype.itemsize
    if len(data) != nbytes:
        raise FormatError(
            "tensor data", f"{len(data)} bytes", f"{nbytes} for {dtype.name} of shape {shown(list(dims))}"
        )
    # frombuffer refuses an empty buffer
    flat = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype.torch)
        if data
        else torch.empty(0, dtype=dtype.torch)
    )
    try:
        return flat.reshape(dims)
    except (RuntimeError, OverflowError, TypeError):  # an empty tensor may claim dimensions up to 2**64 - 1
        raise FormatError("tensor data", f"shape {shown(list(dims))}", "dimensions that torch can hold") from None


def _open_file(store: Store, name: str) -> Checkpoint:
    """A checkpoint of one file; what lies beside it is not looked at."""
    size = store.size(name)
    where = f"{store.uri}/{name}"
    if unread_reason(name):
        refuse_unread(where, [name])
    if not name.endswith(SAFETENSORS):
        raise FormatError(where, "a file of another kind", f"a *{SAFETENSORS} file, or the folder of a checkpoint")
    files, tensors = _read_weights(store, [ObjectInfo(name, size)])
    return Checkpoint(store, files, tensors, (), (), None)


def _open_folder(store: Store, listing: list[ObjectInfo]) -> Checkpoint:
    plan = plan_folder(store, listing)
    files, tensors = _read_weights(store, plan.weights)
    _check_index(store.uri, plan, tensors)
    # A listing also names what cannot be read, such as a link out of the folder: better refused now than after hours.
    for info, size in zip(plan.other, _side_by_side(store.size, [info.key for info in plan.other]), strict=True):
        if size != info.size:
            raise StoreError(f"{store.uri}/{info.key}", f"has {size} bytes; it had {info.size} a moment ago")
    return Checkpoint(store, files, tensors, plan.other, plan.skipped, read_config(store, plan.other))


def _read_weights(store: Store, infos: Iterable[ObjectInfo]) -> tuple[tuple[WeightFile, ...], tuple[SourceTensor, ...]]:
    """Headers of all weight files; no tensor may be in two of them."""

    def read(info: ObjectInfo) -> tuple[str, Header]:
        # Both refuse a link out of the folder, which a listing merely names.
        version, size = store.version(info.key), store.size(info.key)
        where = f"{store.uri}/{info.key}"
        return version, parse_header(lambda start, stop: store.get_range(info.key, start, stop), size, where)

    infos = list(infos)
    versions, headers = zip(*_side_by_side(read, infos), strict=True) if infos else ((), ())
    tensors: dict[str, SourceTensor] = {}
    for info, header in zip(infos, headers, strict=True):
        for name, t in header.tensors.items():
            if name in tensors:
                where = f"{store.uri}: tensor {shown(name)}"
                raise FormatError(where, f"it in both {tensors[name].file} and {info.key}", "every tensor in one file")
            tensors[name] = SourceTensor(name, t.dtype, t.shape, info.key, t.start, t.stop)
    files = tuple(
        WeightFile(info.key, info.size, header.metadata, version)
        for info, header, version in zip(infos, headers, versions, strict=True)
    )
    return files, tuple(tensors.values())


def _side_by_side(read: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results in order. A single one needs no threads, which cost more than planning a small checkpoint otherwise does."""
    if len(items) < 2:
        return [read(item) for item in items]
    with ThreadPoolExecutor(N_READERS) as pool:
        return list(pool.map(read, items))


def _check_index(where: str, plan: FolderPlan, tensors: Iterable[SourceTensor]) -> None:
    """The index and the headers tell the same story, tensor by tensor."""
    if plan.shard_of is None:
        return
    place = {tensor.name: tensor.file for tensor in tensors}
    where = f"{where}/{plan.index}"
    for name, shard in plan.shard_of.items():
        if place.get(name) != shard:
            found = f"it in {place[name]}" if name in place else "it in no shard"
            raise FormatError(f"{where}: tensor {shown(name)}", found, f"it in {shard}, as the index says")
    for name, shard in place.items():
        if name not in plan.shard_of:
            raise FormatError(f"{where}: tensor {shown(name)}", f"it in {shard}, but not in the index", "it in both")
