"""A tensor, or a run of its elements, put together from decoded blocks as they come, in any order, from any thread."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from nwc_core.errors import FormatError

if TYPE_CHECKING:
    import torch

    from nwc_core.artifact.index import BlockRow


class Assembly:
    """Elements [start, stop) of a flattened tensor.

    Args:
        blocks: all blocks of the tensor, in order.
        start, stop: a range inside the tensor, empty only if the tensor is; all of it by default.
        device: where the result is wanted; it moves there when it is complete.

    Attributes:
        rows: the blocks that are needed, in order.
    """

    def __init__(
        self,
        blocks: tuple[BlockRow, ...],
        start: int = 0,
        stop: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._start, self._stop = start, blocks[-1].stop if stop is None else stop
        self._device = device
        # An empty tensor has one block too, which overlaps nothing.
        self.rows = tuple(row for row in blocks if row.start < self._stop and row.stop > start) or blocks
        self._left = len(self.rows)
        self._flat: torch.Tensor | None = None
        self._lock = Lock()

    def place(self, row: BlockRow, decoded: torch.Tensor) -> None:
        """Take one of the rows, decoded and of the tensor's dtype; each of them once."""
        flat = decoded.reshape(-1)
        if (row.start, row.stop) == (self._start, self._stop):
            self._flat = flat.to(self._device)  # no copy on the same device
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
        target[low - self._start : high - self._start] = flat[low - row.start : high - row.start]
        with self._lock:
            self._left -= 1
            if not self._left:
                self._flat = target.to(self._device)

    def result(self) -> torch.Tensor:
        """The elements, flat, once all rows are placed."""
        assert self._flat is not None
        return self._flat
