"""Memory that a caller gives to be decoded into."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nwc_core.dtypes import DType
from nwc_core.errors import UsageError

if TYPE_CHECKING:
    import torch


def check_room(out: torch.Tensor, dtype: DType, shape: tuple[int, ...], where: str, *, flat: bool = True) -> None:
    """Whether a tensor can be decoded into `out`: same type and shape, contiguous, on the CPU, not part of a graph.

    Args:
        out: the memory.
        dtype, shape: of what is to lie there.
        where: names the tensor in errors.
        flat: whether one axis of as many elements will do.

    Raises:
        UsageError: it cannot.
    """
    found = tuple(out.shape)
    fits = found == shape or (flat and found == (out.numel(),) and out.numel() == math.prod(shape))
    if not fits or out.dtype != dtype.torch or out.device.type != "cpu":
        raise UsageError(
            f"{where}: found out of {out.dtype} {list(found)} on {out.device}; wanted {dtype.torch} {list(shape)} on cpu"
        )
    if not out.is_contiguous() or out.requires_grad:
        what = "one that requires grad" if out.requires_grad else "one with gaps"
        raise UsageError(f"{where}: found {what} as out; wanted a contiguous tensor without grad")
