"""A tensor, or a run of its elements, put together from decoded blocks as they come, in any order, from any thread."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from nwc_core.dtypes import DTYPES
from nwc_core.errors import FormatError

if TYPE_CHECKING:
    import torch

    from nwc_core.artifact.index import BlockRow


class Assembly:
    """Elements [start, stop) of a flattened tensor.

    Args:
        blocks: all blocks of the tensor, in order.
        start, stop: a range inside the tensor, empty only if the tensor is; all of it by default.
        device, dtype: where and as what the result is wanted; each block is converted and moved as it comes, so that memory
            never holds the whole twice. Only floats are converted; None keeps the type.
        out: what to fill instead of a new tensor; it has passed `nwc_core.room.check_room`.

    Attributes:
        rows: the blocks that are needed, in order.
    """

    def __init__(
        self,
        blocks: tuple[BlockRow, ...],
        start: int = 0,
        stop: int | None = None,
        *,
        device: str | int | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        out: torch.Tensor | None = None,
    ) -> None:
        self._start, self._stop = start, blocks[-1].stop if stop is None else stop
        stored = DTYPES[blocks[0].dtype].torch
        self._device, self._dtype = device, dtype if dtype is not None and stored.is_floating_point else stored
        self._in_place = self._dtype == stored and str(device) == "cpu"
        # An empty tensor has one block too, which overlaps nothing.
        self.rows = tuple(row for row in blocks if row.start < self._stop and row.stop > start) or blocks
        self._flat: torch.Tensor | None = None if out is None else out.view(-1)
        self._lock = Lock()

    def room(self, row: BlockRow) -> torch.Tensor | None:
        """Where the elements of one of the rows belong, flat; None where they have to be converted, moved or cut first, or
        are all that is wanted. To be asked for when the block's bytes are known to be sound, not before.

        Raises:
            FormatError: memory does not hold the whole.
        """
        if not self._in_place or row.start < self._start or row.stop > self._stop:
            return None
        if self._flat is None and len(self.rows) == 1:
            return None
        return self._whole(row)[row.start - self._start : row.stop - self._start]

    def place(self, row: BlockRow, decoded: torch.Tensor) -> None:
        """Take one of the rows, decoded and of the tensor's dtype; each of them once. It may lie in its room already.

        Raises:
            FormatError: memory does not hold the whole.
        """
        flat = decoded.reshape(-1)
        if self._flat is None and (row.start, row.stop) == (self._start, self._stop):
            self._flat = flat.to(device=self._device, dtype=self._dtype)  # no copy where it is as wanted
            return
        low, high = max(self._start, row.start), min(self._stop, row.stop)
        room = self._whole(row)[low - self._start : high - self._start]
        if not self._in_place or room.data_ptr() != flat.data_ptr():
            room.copy_(flat[low - row.start : high - row.start])

    def _whole(self, row: BlockRow) -> torch.Tensor:
        """Memory for all, taken when a first block has come: a damaged one must not cost as much."""
        import torch

        with self._lock:
            if self._flat is None:
                numel = self._stop - self._start
                try:
                    self._flat = torch.empty(numel, device=self._device, dtype=self._dtype)
                except RuntimeError:  # torch's way to say that there is not so much memory
                    raise FormatError(f"tensor {row.tensor!r}", f"{numel} elements", "what memory holds") from None
            return self._flat

    def result(self) -> torch.Tensor:
        """The elements, flat, once all rows are placed."""
        assert self._flat is not None
        return self._flat
