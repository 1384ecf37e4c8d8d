"""Reading an artifact one tensor, or one slice, at a time. Habits as in ``safetensors.safe_open``.

Opening costs at most three requests: manifest, index, and (at the first tensor) the codec. Tensors cost one request for
each payload that holds some of their blocks, or a few for a large one, see `nwc_core.artifact.ranges`. Every size and
digest is compared on every read, before a byte is believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nwc_core.artifact.ahead import MAX_NBYTES, ahead
from nwc_core.artifact.assembly import Assembly, check_out
from nwc_core.artifact.base import BaseSource
from nwc_core.artifact.codec_cache import CodecSource
from nwc_core.artifact.fetch import fetch
from nwc_core.artifact.index import BlockRow, Index, read_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import ObjectRef, check_object
from nwc_core.artifact.ranges import Request, plan_requests
from nwc_core.artifact.slices import TensorSlice
from nwc_core.delta import decode_delta
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import WITH_BASE, EncodedTensor
from nwc_core.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
    UnknownTensorError,
    UsageError,
)
from nwc_core.store import Store, open_store
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    import torch

    from nwc_core.codec import Codec


def open(
    source: str | Path | Store,
    codec: Codec | None = None,
    base: str | Path | Store | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Artifact:
    """Open an artifact for reading.

    Args:
        source: a URI, a local folder, or a store whose root is the artifact.
        codec: the codec, if it is at hand already; it must be the one that the artifact was coded with.
        base: where the artifact is that this one's deltas are added to, if it is not where it was.
        device, dtype: where and as what tensors are wanted if nothing else is said with them; floats alone are converted,
            None keeps their types.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    return Artifact(open_store(source), codec, base, device=device, dtype=dtype)


def load(
    source: str | Path | Store,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    base: str | Path | Store | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors of an artifact, by name. Arguments as for `open` and `Artifact.get_tensors`.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    with open(source, base=base, device=device, dtype=dtype) as artifact:
        return artifact.get_tensors(artifact, threads=threads)


def iter_tensors(
    source: str | Path | Store,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    base: str | Path | Store | None = None,
    max_nbytes: int = MAX_NBYTES,
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all tensors of an artifact, see `Artifact.iter_tensors`. Nothing is read before the first is asked for.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    with open(source, base=base, device=device, dtype=dtype) as artifact:
        yield from artifact.iter_tensors(threads=threads, max_nbytes=max_nbytes)


class Artifact:
    """An open artifact. Safe to read from several threads; pickling it reopens it in the other process.

    Attributes:
        store: where it is.
        manifest: its checked manifest.
        index: its checked index.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec | None = None,
        base: str | Path | Store | None = None,
        bases_left: int | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.store = store
        self._device, self._dtype = device, dtype
        try:
            manifest = store.get(MANIFEST_KEY)
        except NotFoundError as error:
            raise NotFoundError(
                error.key, "no such object: no artifact is there, or one that was not finished"
            ) from None
        self.manifest = Manifest.from_bytes(manifest, self._where(MANIFEST_KEY))
        self._given_codec = codec
        self._codec = CodecSource(self.manifest.codec, codec, self.read_object, self._where(self.manifest.codec.object))
        self._given_base = base
        self._base = BaseSource(
            self.manifest.base,
            base,
            store.uri,
            lambda store, left: Artifact(store, bases_left=left),
            bases_left,
        )
        ref = self.manifest.index
        self.index: Index = read_index(self.read_object(ref), self.manifest, self._where(ref.object))

    def __enter__(self) -> Artifact:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release: an artifact holds no open file or connection of its own."""

    def __reduce__(self) -> tuple[Callable[..., Artifact], tuple[Any, ...]]:
        return _reopened, (self.store, self._given_codec, self._given_base, self._device, self._dtype)

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

    @property
    def base(self) -> Artifact:
        """The artifact that this one's deltas are added to, opened at first use.

        Raises:
            FormatError: it has none.
            NotFoundError, IntegrityError: the base is not where it was, or another artifact is there.
        """
        return self._base.get()

    def get_tensor(
        self,
        name: str,
        device: str | torch.device | None = None,
        threads: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A whole tensor: shape and dtype of the original.

        Args:
            name: of the tensor.
            device, threads, dtype: as in `get_tensors`.
            out: a contiguous tensor of the same shape and dtype on the CPU, to be filled and returned instead of a new one;
                what is in it after an error is anything.

        Raises:
            UnknownTensorError: there is none of that name.
            UsageError: `out` does not fit.
            IntegrityError, FormatError: a block is damaged.
        """
        if out is None:
            return self.get_tensors([name], device, threads, dtype=dtype)[name]
        blocks = self._blocks(name)
        check_out(name, blocks[0], out)
        if device is not None or dtype is not None:
            raise UsageError(f"tensor {shown(name)}: found out and device or dtype; wanted one of them")
        self._fill([Assembly(blocks, out=out)], threads)
        return out

    def get_tensors(
        self,
        names: Iterable[str],
        device: str | torch.device | None = None,
        threads: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> dict[str, torch.Tensor]:
        """Several tensors, in fewer requests and less time than one by one.

        Args:
            names: of the tensors.
            device: where they are wanted, if not where `open` was told; each moves there as soon as it is complete.
            threads: to decode on, None for all cores; the result does not depend on it.
            dtype: what floats are converted to, each tensor as soon as it is complete; None for what `open` was told.

        Raises:
            UnknownTensorError: there is none of such a name; nothing was read.
            IntegrityError, FormatError: a block is damaged.
        """
        place, kind = device or self._device, dtype or self._dtype
        found = {name: Assembly(self._blocks(name), device=place, dtype=kind) for name in names}
        self._fill(list(found.values()), threads)
        return {name: assembly.result().reshape(self._blocks(name)[0].shape) for name, assembly in found.items()}

    def iter_tensors(
        self,
        names: Iterable[str] | None = None,
        device: str | torch.device | None = None,
        threads: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        max_nbytes: int = MAX_NBYTES,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) one after the other, those that follow being read and decoded meanwhile.

        Args:
            names: of the tensors, in the order wanted; all in stored order, which takes the fewest requests, if None.
            device, threads, dtype: as in `get_tensors`.
            max_nbytes: of tensors in memory that were not taken yet, unless one alone is larger.

        Raises:
            UnknownTensorError: there is none of such a name; nothing was read.
            IntegrityError, FormatError: a block is damaged; tensors before its neighbours were given.
        """
        wanted = list(self if names is None else names)
        for name in wanted:
            self._blocks(name)

        def work(some: list[str]) -> list[tuple[str, torch.Tensor]]:
            return list(self.get_tensors(some, device, threads, dtype=dtype).items())

        def nbytes(name: str) -> int:
            last = self._blocks(name)[-1]
            return last.stop * DTYPES[last.dtype].itemsize

        return ahead(dict.fromkeys(wanted), nbytes, work, max_nbytes)

    def iter_blocks(
        self, rows: Iterable[BlockRow], threads: int | None = None, max_nbytes: int = MAX_NBYTES
    ) -> Iterator[torch.Tensor]:
        """Blocks of the index, decoded, each of its own shape, in the order of `rows`: a tensor larger than memory passes.

        Args:
            rows: in the order wanted; neighbours in a payload come in one request.
            threads, max_nbytes: as in `iter_tensors`.

        Raises:
            IntegrityError, FormatError: a block is damaged; those before its neighbours were given.
        """

        def work(some: list[BlockRow]) -> list[torch.Tensor]:
            found: dict[int, torch.Tensor] = {}

            def decode(row: BlockRow, data: memoryview, threads: int) -> None:
                check_object(data, row.length, row.sha256.hex(), self._block_where(row))
                found[id(row)] = self.decode_bytes(row, data, threads)

            self.codec  # noqa: B018  read once here, not by every thread
            fetch(plan_requests(some), self._read_request, decode, threads)
            return [found[id(row)] for row in some]

        return ahead(rows, lambda row: row.numel * DTYPES[row.dtype].itemsize, work, max_nbytes)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to be indexed: ``get_slice(name)[0:128]`` reads and decodes only the blocks with those rows.

        Raises:
            UnknownTensorError: there is none of that name.
        """
        first = self._blocks(name)[0]

        def read(start: int, stop: int) -> torch.Tensor:
            assembly = Assembly(self._blocks(name), start, stop, device=self._device, dtype=self._dtype)
            self._fill([assembly])
            return assembly.result()

        return TensorSlice(first.shape, first.dtype, read)

    def get_elements(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of a flattened tensor, flat.

        Raises:
            UnknownTensorError: there is none of that name.
            FormatError: the tensor does not have so many.
        """
        blocks = self._blocks(name)
        if not 0 <= start <= stop <= blocks[-1].stop:
            raise FormatError(
                f"{self.store.uri}: tensor {shown(name)}", f"{blocks[-1].stop} elements", f"[{start}, {stop})"
            )
        assembly = Assembly(blocks, start, stop)
        self._fill([assembly], threads=1)
        return assembly.result()

    def decode_bytes(
        self, row: BlockRow, data: bytes | memoryview, threads: int = 1, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode the bytes of a block, whose digest the caller has checked. The result does not depend on `threads`.

        Args:
            row: of the block.
            data: its bytes.
            threads: to decode on.
            out: contiguous room for the elements, of the block's type, on the CPU; used where that saves a copy.

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
        if encoded.coder in WITH_BASE:
            tensor = decode_delta(encoded, self._base_of(row), self.codec, threads, where)
        else:
            tensor = self.codec.decode(encoded, threads, where, out)
        if tuple(tensor.shape) != encoded.shape or tensor.dtype != DTYPES[row.dtype].torch:
            raise FormatError(
                where, f"{tensor.dtype} {list(tensor.shape)} decoded", f"{row.dtype} {list(encoded.shape)}"
            )
        return tensor

    def _base_of(self, row: BlockRow) -> torch.Tensor:
        """What a block's delta is added to, flat."""
        base = self.base
        if row.tensor not in base:
            raise FormatError(
                self._block_where(row),
                f"a base without this tensor ({base.store.uri})",
                "the one that it was coded against",
            )
        return base.get_elements(row.tensor, row.start, row.stop)

    def read_block(self, row: BlockRow) -> bytes:
        """The coded bytes of one block, digest checked.

        Raises:
            IntegrityError: the bytes are not the ones that were written.
        """
        data = self._read_request(Request((row,)))
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

    def _fill(self, assemblies: Sequence[Assembly], threads: int | None = None) -> None:
        """Read, check and decode all blocks that these assemblies, of different tensors, need."""
        of_tensor = {row.tensor: assembly for assembly in assemblies for row in assembly.rows}

        def decode(row: BlockRow, data: memoryview, threads: int) -> None:
            check_object(data, row.length, row.sha256.hex(), self._block_where(row))
            assembly = of_tensor[row.tensor]
            assembly.place(row, self.decode_bytes(row, data, threads, assembly.room(row)))

        if of_tensor:
            self.codec  # noqa: B018  read once here, not by every thread
        requests = plan_requests(row for assembly in assemblies for row in assembly.rows)
        fetch(requests, self._read_request, decode, threads)

    def _read_request(self, request: Request) -> bytes:
        """The bytes of a range, not checked yet."""
        try:
            return self.store.get_range(request.object, request.start, request.stop)
        except (NotFoundError, PermissionDeniedError):
            raise
        except StoreError:
            self._check_size(request)
            raise

    def _blocks(self, name: str) -> tuple[BlockRow, ...]:
        try:
            return self.index.blocks(name)
        except KeyError:
            raise UnknownTensorError(name, self.store.uri) from None

    def _check_size(self, request: Request) -> None:
        """A range that cannot be read may mean that the object was cut off; say so rather than what the store says."""
        wanted = next(ref.size for ref in self.manifest.payloads if ref.object == request.object)
        found = self.store.size(request.object)
        if found != wanted:
            lost = next((row for row in request.blocks if row.offset + row.length > found), request.blocks[0])
            raise IntegrityError(self._block_where(lost), f"an object of {found} bytes", f"{wanted} bytes")

    def _where(self, key: str) -> str:
        return f"{self.store.uri}/{key}"

    def _block_where(self, row: BlockRow) -> str:
        return f"{self._where(row.object)}: tensor {shown(row.tensor)}, block [{row.start}, {row.stop})"


def _reopened(
    store: Store,
    codec: Codec | None,
    base: str | Path | Store | None,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> Artifact:
    return Artifact(store, codec, base, device=device, dtype=dtype)


def _is_part(shape: tuple[int, ...], row: BlockRow) -> bool:
    """Whether a block of this shape is rows of the tensor: its axes but the first are the tensor's last ones."""
    if row.numel == 0 or row.numel == math.prod(row.shape):
        return shape == row.shape
    inner = shape[1:]
    return len(shape) >= 1 and (not inner or row.shape[-len(inner) :] == inner)
