"""A tensor of an artifact that stays coded in memory and is decoded whenever its values are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EncodedTensor

if TYPE_CHECKING:
    import torch

    from nwc_core.codec import Codec

# Below this, handing a block to several threads takes longer than decoding it.
_MIN_WEIGHTS_PER_THREAD = 1 << 18


@dataclass(frozen=True, eq=False)
class CodedWeight:
    """The blocks of one tensor. Immutable, safe to decode from several threads at once.

    Attributes:
        name: of the tensor, for errors.
        dtype: safetensors' name of the element type, e.g. "BF16".
        shape: of the whole tensor.
        blocks: in order; together they hold all elements, row-major.
        codec: that coded them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: tuple[EncodedTensor, ...]
    codec: Codec

    def __deepcopy__(self, memo: dict[int, object]) -> CodedWeight:
        return self

    @property
    def nbytes(self) -> int:
        """Bytes that the blocks take in memory."""
        return sum(block.nbytes for block in self.blocks)

    def decode(self) -> torch.Tensor:
        """All of it, in the type that is stored.

        Raises:
            FormatError: a block is damaged.
        """
        if len(self.blocks) == 1:
            return self._decode(self.blocks[0]).reshape(self.shape)
        import torch

        whole = torch.empty(self.shape, dtype=DTYPES[self.dtype].torch)
        flat, at = whole.view(-1), 0
        for block in self.blocks:
            self._decode(block, flat[at : at + block.numel])
            at += block.numel
        return whole

    def decode_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Some rows of a matrix, from no more blocks than hold them.

        Args:
            rows: int64 [...], numbers of rows, each within the matrix.

        Returns:
            [..., columns]
        """
        import torch

        columns = self.shape[1]
        wanted = rows.reshape(-1)
        result = torch.empty((wanted.numel(), columns), dtype=DTYPES[self.dtype].torch)
        first = 0
        for block in self.blocks:
            last = first + block.numel // columns
            here = ((wanted >= first) & (wanted < last)).nonzero().reshape(-1)
            if here.numel():
                result[here] = self._decode(block).reshape(-1, columns)[wanted[here] - first]
            first = last
        return result.reshape(*rows.shape, columns)

    @property
    def has_whole_rows(self) -> bool:
        """Whether it is a matrix each of whose rows lies in one block."""
        return len(self.shape) == 2 and all(block.numel % self.shape[1] == 0 for block in self.blocks)

    def _decode(self, block: EncodedTensor, out: torch.Tensor | None = None) -> torch.Tensor:
        import torch

        threads = max(1, min(torch.get_num_threads(), block.numel // _MIN_WEIGHTS_PER_THREAD))
        return self.codec.decode(block, threads, f"tensor {self.name!r}", out)
