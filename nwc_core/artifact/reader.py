"""Reading an artifact one tensor, or one slice, at a time. Habits as in ``safetensors.safe_open``.

Opening costs at most three requests: manifest, index, and (at the first tensor) the codec. Every size and digest is
compared on every read, before a byte is believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from nwc_core.artifact.codec_cache import CodecSource
from nwc_core.artifact.index import BlockRow, Index, read_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import ObjectRef, check_object
from nwc_core.artifact.slices import TensorSlice
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor
from nwc_core.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
    UnknownTensorError,
)
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    import torch

    from nwc_core.codec import Codec


def open(source: str | Path | Store, codec: Codec | None = None) -> Artifact:
    """Open an artifact for reading.

    Args:
        source: a URI, a local folder, or a store whose root is the artifact.
        codec: the codec, if it is at hand already; it must be the one that the artifact was coded with.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    return Artifact(open_store(source), codec)


def load(source: str | Path | Store, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """All tensors of an artifact, by name."""
    with open(source) as artifact:
        return {name: artifact.get_tensor(name, device) for name in artifact.keys()}  # noqa: SIM118


class Artifact:
    """An open artifact. Safe to read from several threads; pickling it reopens it in the other process.

    Attributes:
        store: where it is.
        manifest: its checked manifest.
        index: its checked index.
    """

    def __init__(self, store: Store, codec: Codec | None = None) -> None:
        self.store = store
        self.manifest = Manifest.from_bytes(store.get(MANIFEST_KEY), self._where(MANIFEST_KEY))
        self._given_codec = codec
        self._codec = CodecSource(self.manifest.codec, codec, self.read_object, self._where(self.manifest.codec.object))
        ref = self.manifest.index
        self.index: Index = read_index(self.read_object(ref), self.manifest, self._where(ref.object))

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release: an artifact holds no open file or connection of its own."""

    def __reduce__(self) -> tuple[type[Artifact], tuple[Store, Codec | None]]:
        return type(self), (self.store, self._given_codec)

    def __repr__(self) -> str:
        return f"Artifact({self.store.uri!r}, {len(self)} tensors)"

    def keys(self) -> list[str]:
        """Names of the tensors, in stored order."""
        return self.index.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.index.names())

    def __contains__(self, name: object) -> bool:
        return name in self.index

    def __len__(self) -> int:
        return self.manifest.counts.tensors

    def metadata(self) -> dict[str, str]:
        """The safetensors metadata of the original weight files, merged in their order."""
        return {key: value for file in self.manifest.weight_files for key, value in file.metadata.items()}

    @property
    def codec(self) -> Codec:
        """The codec; read at first use, once per process for all artifacts that share it.

        Raises:
            IntegrityError: the codec object is damaged.
        """
        return self._codec.get()

    def get_tensor(self, name: str, device: str | torch.device = "cpu") -> torch.Tensor:
        """A whole tensor: shape and dtype of the original.

        Raises:
            UnknownTensorError: there is none of that name.
            IntegrityError, FormatError: a block is damaged.
        """
        first = self._blocks(name)[0]
        return self._read_elements(name, 0, self._blocks(name)[-1].stop).reshape(first.shape).to(device)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to be indexed: ``get_slice(name)[0:128]`` reads and decodes only the blocks with those rows.

        Raises:
            UnknownTensorError: there is none of that name.
        """
        first = self._blocks(name)[0]
        return TensorSlice(first.shape, first.dtype, lambda start, stop: self._read_elements(name, start, stop))

    def decode_block(self, row: BlockRow) -> torch.Tensor:
        """Read, check and decode one block; the shape is the block's own.

        Raises:
            IntegrityError: the bytes are not the ones that were written.
            FormatError: they decode to something else than the index says.
        """
        return self.decode_bytes(row, self.read_block(row))

    def decode_bytes(self, row: BlockRow, data: bytes) -> torch.Tensor:
        """Decode the bytes of a block, whose digest the caller has checked.

        Raises:
            FormatError: they decode to something else than the index says.
        """
        where = self._block_where(row)
        encoded = EncodedTensor.from_bytes(data, where)
        if (encoded.dtype.name, encoded.coder) != (row.dtype, row.coder):
            raise FormatError(where, f"{encoded.dtype.name} coded by {encoded.coder}", f"{row.dtype} by {row.coder}")
        if encoded.numel != row.numel or not _is_part(encoded.shape, row):
            raise FormatError(
                where, f"shape {list(encoded.shape)}", f"elements [{row.start}, {row.stop}) of {list(row.shape)}"
            )
        tensor = self.codec.decode(encoded, where=where)
        if tuple(tensor.shape) != encoded.shape or tensor.dtype != DTYPES[row.dtype].torch:
            raise FormatError(
                where, f"{tensor.dtype} {list(tensor.shape)} decoded", f"{row.dtype} {list(encoded.shape)}"
            )
        return tensor

    def read_block(self, row: BlockRow) -> bytes:
        """The coded bytes of one block, digest checked.

        Raises:
            IntegrityError: the bytes are not the ones that were written.
        """
        try:
            data = self.store.get_range(row.object, row.offset, row.offset + row.length)
        except (NotFoundError, PermissionDeniedError):
            raise
        except StoreError:
            self._check_size(row)
            raise
        check_object(data, row.length, row.sha256.hex(), self._block_where(row))
        return data

    def read_object(self, ref: ObjectRef) -> bytes:
        """A whole object that the manifest names, digest checked.

        Raises:
            IntegrityError: the bytes are not the ones that were written.
        """
        data = self.store.get(ref.object)
        check_object(data, ref.size, ref.sha256, self._where(ref.object))
        return data

    def _read_elements(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of the flattened tensor, inside of it; decodes the blocks that hold them."""
        import torch

        blocks = self._blocks(name)  # an empty tensor has one too, which overlaps nothing
        rows = [row for row in blocks if row.start < stop and row.stop > start] or [blocks[0]]
        first = self.decode_block(rows[0]).reshape(-1)
        if (rows[0].start, rows[0].stop) == (start, stop):
            return first
        # Not before: a damaged block must not cost the memory of a whole tensor.
        result = torch.empty(stop - start, dtype=first.dtype)
        for row in rows:
            decoded = first if row is rows[0] else self.decode_block(row).reshape(-1)
            low, high = max(start, row.start), min(stop, row.stop)
            result[low - start : high - start] = decoded[low - row.start : high - row.start]
        return result

    def _blocks(self, name: str) -> tuple[BlockRow, ...]:
        try:
            return self.index.blocks(name)
        except KeyError:
            raise UnknownTensorError(name, self.store.uri) from None

    def _check_size(self, row: BlockRow) -> None:
        """A range that cannot be read may mean that the object was cut off; say so rather than what the store says."""
        wanted = next(ref.size for ref in self.manifest.payloads if ref.object == row.object)
        found = self.store.size(row.object)
        if found != wanted:
            raise IntegrityError(self._block_where(row), f"an object of {found} bytes", f"{wanted} bytes")

    def _where(self, key: str) -> str:
        return f"{self.store.uri}/{key}"

    def _block_where(self, row: BlockRow) -> str:
        return f"{self._where(row.object)}: tensor {shown(row.tensor)}, block [{row.start}, {row.stop})"


def _is_part(shape: tuple[int, ...], row: BlockRow) -> bool:
    """Whether a block of this shape is rows of the tensor: its axes but the first are the tensor's last ones."""
    if row.numel == 0 or row.numel == math.prod(row.shape):
        return shape == row.shape
    inner = shape[1:]
    return len(shape) >= 1 and (not inner or row.shape[-len(inner) :] == inner)
