"""A tensor, or a run of its elements, put together from decoded blocks as they come, in any order, from any thread."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from nwc_core.dtypes import DTYPES
from nwc_core.errors import FormatError, UsageError
from nwc_core.strict_json import shown

if TYPE_CHECKING:
    import torch

    from nwc_core.artifact.index import BlockRow


class Assembly:
    """Elements [start, stop) of a flattened tensor.

    Args:
        blocks: all blocks of the tensor, in order.
        start, stop: a range inside the tensor, empty only if the tensor is; all of it by default.
        device, dtype: where and as what the result is wanted; it is moved and converted when it is complete. Only floats
            are converted; None keeps the type.
        out: what to fill instead of a new tensor: see `check_out`.

    Attributes:
        rows: the blocks that are needed, in order.
    """

    def __init__(
        self,
        blocks: tuple[BlockRow, ...],
        start: int = 0,
        stop: int | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        out: torch.Tensor | None = None,
    ) -> None:
        self._start, self._stop = start, blocks[-1].stop if stop is None else stop
        self._device, self._dtype = device, dtype
        # An empty tensor has one block too, which overlaps nothing.
        self.rows = tuple(row for row in blocks if row.start < self._stop and row.stop > start) or blocks
        self._left = len(self.rows)
        self._flat: torch.Tensor | None = None if out is None else out.view(-1)
        self._lock = Lock()

    def room(self, row: BlockRow) -> torch.Tensor | None:
        """Where the elements of one of the rows belong, flat, if memory for them is there already."""
        if self._flat is None or row.start < self._start or row.stop > self._stop:
            return None
        return self._flat[row.start - self._start : row.stop - self._start]

    def place(self, row: BlockRow, decoded: torch.Tensor) -> None:
        """Take one of the rows, decoded and of the tensor's dtype; each of them once. It may lie in its room already."""
        flat = decoded.reshape(-1)
        if self._flat is None and (row.start, row.stop) == (self._start, self._stop):
            self._flat = self._wanted(flat)  # no copy where it is as wanted
            return
        with self._lock:
            if self._flat is None:
                # Not before a first block: a damaged one must not cost the memory of a whole tensor.
                try:
                    self._flat = flat.new_empty(self._stop - self._start)
                except RuntimeError:  # torch's way to say that there is not so much memory
                    raise FormatError(
                        f"tensor {row.tensor!r}", f"{self._stop - self._start} elements", "what memory holds"
                    ) from None
            target = self._flat
        low, high = max(self._start, row.start), min(self._stop, row.stop)
        room = target[low - self._start : high - self._start]
        if room.data_ptr() != flat.data_ptr():
            room.copy_(flat[low - row.start : high - row.start])
        with self._lock:
            self._left -= 1
            if not self._left:
                self._flat = self._wanted(target)

    def _wanted(self, flat: torch.Tensor) -> torch.Tensor:
        converted = self._dtype if flat.is_floating_point() else None
        return flat.to(device=self._device, dtype=converted)

    def result(self) -> torch.Tensor:
        """The elements, flat, once all rows are placed."""
        assert self._flat is not None
        return self._flat


def check_out(name: str, first: BlockRow, out: torch.Tensor) -> None:
    """Whether a tensor can be decoded into `out`: same shape and type, contiguous, on the CPU, not part of a graph.

    Raises:
        UsageError: it cannot.
    """
    wanted = DTYPES[first.dtype].torch
    found = f"{out.dtype} {list(out.shape)} on {out.device}"
    if tuple(out.shape) != first.shape or out.dtype != wanted or out.device.type != "cpu":
        raise UsageError(f"tensor {shown(name)}: found out of {found}; wanted {wanted} {list(first.shape)} on cpu")
    if not out.is_contiguous() or out.requires_grad:
        what = "one that requires grad" if out.requires_grad else "one with gaps"
        raise UsageError(f"tensor {shown(name)}: found {what} as out; wanted a contiguous tensor without grad")
