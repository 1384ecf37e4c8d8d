"""Reading an artifact one tensor, or one slice, at a time. Habits as in ``safetensors.safe_open``.

Opening costs at most three requests: manifest, index, and (at the first tensor) the codec. Tensors cost one request for
each payload that holds some of their blocks, or a few for a large one, see `nwc_core.artifact.ranges`. Every size and
digest is compared on every read, before a byte is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nwc_core.artifact.ahead import MAX_NBYTES
from nwc_core.artifact.assembly import Assembly
from nwc_core.artifact.block_reader import BlockReader
from nwc_core.artifact.fetch import Workers
from nwc_core.artifact.index import BlockRow, Index, read_index
from nwc_core.artifact.slices import TensorSlice
from nwc_core.dtypes import DTYPES
from nwc_core.errors import (
    FormatError,
    UnknownTensorError,
    UsageError,
)
from nwc_core.room import check_room
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
    device: str | int | torch.device = "cpu",
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
    device: str | int | torch.device = "cpu",
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
    names: Iterable[str] | None = None,
    device: str | int | torch.device = "cpu",
    threads: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    base: str | Path | Store | None = None,
    max_nbytes: int = MAX_NBYTES,
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of tensors of an artifact, all by default, see `Artifact.iter_tensors`. Nothing is read before the first
    is asked for.

    Raises:
        NotFoundError: there is no artifact.
        VersionError, IntegrityError, FormatError: it is newer than this package, damaged, or none.
    """
    with open(source, base=base, device=device, dtype=dtype) as artifact:
        yield from artifact.iter_tensors(names, threads=threads, max_nbytes=max_nbytes)


class Artifact(BlockReader):
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
        device: str | int | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(store, codec, base, lambda store, left: Artifact(store, bases_left=left), bases_left)
        self._device, self._dtype = device, dtype
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

    def offset_keys(self) -> list[str]:
        """The same: `safetensors.safe_open` has both."""
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

    def get_tensor(
        self,
        name: str,
        device: str | int | torch.device | None = None,
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
        check_room(out, DTYPES[blocks[0].dtype], blocks[0].shape, f"tensor {shown(name)}", flat=False)
        if device is not None or dtype is not None:
            raise UsageError(f"tensor {shown(name)}: found out and device or dtype; wanted one of them")
        self._fill([Assembly(blocks, out=out)], threads)
        return out

    def get_tensors(
        self,
        names: Iterable[str],
        device: str | int | torch.device | None = None,
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
        found = self._assemblies(names, device, dtype)
        self._fill(list(found.values()), threads)
        return {name: assembly.result().reshape(assembly.rows[0].shape) for name, assembly in found.items()}

    def iter_tensors(
        self,
        names: Iterable[str] | None = None,
        device: str | int | torch.device | None = None,
        threads: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        max_nbytes: int = MAX_NBYTES,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) one after the other, those that follow being read and decoded meanwhile.

        Args:
            names: of the tensors, in the order wanted; all in stored order, which takes the fewest requests, if None.
            device, threads, dtype: as in `get_tensors`.
            max_nbytes: of tensors, and of coded bytes, in memory that were not taken yet, unless one tensor alone is larger.

        Raises:
            UnknownTensorError: there is none of such a name; nothing was read.
            UsageError: `threads` is below 1.
            IntegrityError, FormatError: a block is damaged; the tensors before its own were given.
        """
        wanted = list(dict.fromkeys(self if names is None else names))
        blocks = [row for name in wanted for row in self._blocks(name)]
        kind = dtype or self._dtype

        def nbytes(name: str) -> int:
            rows = self._blocks(name)
            stored = DTYPES[rows[0].dtype].torch
            size = (kind if kind and stored.is_floating_point else stored).itemsize
            return rows[-1].stop * size + sum(row.length for row in rows)

        def work(some: list[str], workers: Workers) -> list[tuple[str, torch.Tensor]]:
            found = self._assemblies(some, device, dtype)
            self._fill(list(found.values()), workers)
            return [(name, assembly.result().reshape(assembly.rows[0].shape)) for name, assembly in found.items()]

        return self._ahead(wanted, blocks, nbytes, work, threads, max_nbytes)

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to be indexed: ``get_slice(name)[0:128]`` reads and decodes only the blocks with those rows.

        Raises:
            UnknownTensorError: there is none of that name.
        """
        first = self._blocks(name)[0]

        def read(start: int, stop: int) -> torch.Tensor:
            if start == stop:
                import torch

                stored = DTYPES[first.dtype].torch
                kind = self._dtype if self._dtype is not None and stored.is_floating_point else stored
                return torch.empty(0, device=self._device, dtype=kind)
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

    def _assemblies(
        self, names: Iterable[str], device: str | int | torch.device | None, dtype: torch.dtype | None
    ) -> dict[str, Assembly]:
        place = self._device if device is None else device
        return {name: Assembly(self._blocks(name), device=place, dtype=dtype or self._dtype) for name in names}

    def _blocks(self, name: str) -> tuple[BlockRow, ...]:
        try:
            return self.index.blocks(name)
        except KeyError:
            raise UnknownTensorError(name, self.store.uri) from None


def _reopened(
    store: Store,
    codec: Codec | None,
    base: str | Path | Store | None,
    device: str | int | torch.device,
    dtype: torch.dtype | None,
) -> Artifact:
    return Artifact(store, codec, base, device=device, dtype=dtype)
