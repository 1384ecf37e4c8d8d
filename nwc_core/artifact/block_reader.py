"""What an artifact is made of, read and checked: objects, byte ranges and blocks, one by one or many side by side.

Every size and digest is compared on every read, before a byte is believed; an error names the object, and the tensor and
block in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nwc_core.artifact.ahead import MAX_NBYTES, ahead
from nwc_core.artifact.assembly import Assembly
from nwc_core.artifact.base import BaseSource
from nwc_core.artifact.codec_cache import CodecSource
from nwc_core.artifact.fetch import Workers, check_threads, fetch
from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import ObjectRef, check_object
from nwc_core.artifact.ranges import Request, plan_requests
from nwc_core.delta import decode_delta
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import WITH_BASE, EncodedTensor
from nwc_core.errors import FormatError, IntegrityError, NotFoundError, PermissionDeniedError, StoreError
from nwc_core.store import Store
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    import torch

    from nwc_core.artifact.reader import Artifact
    from nwc_core.codec import Codec

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class BlockReader:
    """The blocks of an artifact. Safe to use from several threads.

    Args:
        store, codec, base: as for `nwc_core.open`.
        open_base: opens a base, which may have so many more of them below it.
        bases_left: how many bases below one another are left.

    Attributes:
        store: where it is.
        manifest: its checked manifest.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec | None,
        base: str | Path | Store | None,
        open_base: Callable[[Store, int], Artifact],
        bases_left: int | None,
    ) -> None:
        self.store = store
        try:
            manifest = store.get(MANIFEST_KEY)
        except NotFoundError as error:
            raise NotFoundError(
                error.key, "no such object: no artifact is there, or one that was not finished"
            ) from None
        self.manifest = Manifest.from_bytes(manifest, self._where(MANIFEST_KEY))
        self._given_codec, self._given_base = codec, base
        self._codec = CodecSource(self.manifest.codec, codec, self.read_object, self._where(self.manifest.codec.object))
        self._base = BaseSource(self.manifest.base, base, store.uri, open_base, bases_left)

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

    def iter_blocks(
        self, rows: Iterable[BlockRow], threads: int | None = None, max_nbytes: int = MAX_NBYTES
    ) -> Iterator[torch.Tensor]:
        """Blocks of the index, decoded, each of its own shape, in the order of `rows`: a tensor larger than memory passes.

        Args:
            rows: in the order wanted; neighbours in a payload come in one request.
            threads, max_nbytes: as in `iter_tensors`.

        Raises:
            UsageError: `threads` is below 1.
            IntegrityError, FormatError: a block is damaged; those before it were given.
        """

        def nbytes(row: BlockRow) -> int:
            return row.numel * DTYPES[row.dtype].itemsize + row.length

        def work(some: list[BlockRow], workers: Workers) -> list[torch.Tensor]:
            found: dict[int, torch.Tensor] = {}

            def decode(row: BlockRow, data: memoryview, threads: int) -> None:
                check_object(data, row.length, row.sha256.hex(), self._block_where(row))
                found[id(row)] = self.decode_bytes(row, data, threads)

            workers.run(plan_requests(some), self._read_request, decode)
            return [found[id(row)] for row in some]

        wanted = list(rows)
        return self._ahead(wanted, wanted, nbytes, work, threads, max_nbytes)

    def _ahead(
        self,
        items: list[_Item],
        blocks: Sequence[BlockRow],
        nbytes: Callable[[_Item], int],
        work: Callable[[list[_Item], Workers], Sequence[_Result]],
        threads: int | None,
        max_nbytes: int,
    ) -> Iterator[_Result]:
        """`ahead` with threads of its own, which begin with the first item; `blocks` are those of all items."""
        threads = check_threads(threads)

        def results() -> Iterator[_Result]:
            if blocks:
                self.codec  # noqa: B018  read once here, not by every thread
                with Workers(blocks, len(blocks), threads) as workers:
                    yield from ahead(items, nbytes, lambda some: work(some, workers), workers.stop, max_nbytes)

        return results()

    def _fill(self, assemblies: Sequence[Assembly], threads: int | Workers | None = None) -> None:
        """Read, check and decode all blocks that these assemblies, of different tensors, need."""
        of_tensor = {row.tensor: assembly for assembly in assemblies for row in assembly.rows}

        def decode(row: BlockRow, data: memoryview, threads: int) -> None:
            check_object(data, row.length, row.sha256.hex(), self._block_where(row))
            assembly = of_tensor[row.tensor]
            assembly.place(row, self.decode_bytes(row, data, threads, assembly.room(row)))

        if of_tensor:
            self.codec  # noqa: B018  read once here, not by every thread
        requests = plan_requests(row for assembly in assemblies for row in assembly.rows)
        if isinstance(threads, Workers):
            threads.run(requests, self._read_request, decode)
        else:
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


def _is_part(shape: tuple[int, ...], row: BlockRow) -> bool:
    """Whether a block of this shape is rows of the tensor: its axes but the first are the tensor's last ones."""
    if row.numel == 0 or row.numel == math.prod(row.shape):
        return shape == row.shape
    inner = shape[1:]
    return len(shape) >= 1 and (not inner or row.shape[-len(inner) :] == inner)
