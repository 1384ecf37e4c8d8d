"""From one floating-point type to another, and never to infinity by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nwc_core.dtypes import DTYPES, DType
from nwc_core.errors import UsageError

if TYPE_CHECKING:
    import torch

BY_TORCH_NAME = {dtype.torch_name: dtype for dtype in DTYPES.values() if dtype.lossy}


def converted(tensor: torch.Tensor, dtype: DType, name: str) -> torch.Tensor:
    """The tensor in another type, rounded to nearest.

    Args:
        tensor: or a part of one, of any floating-point type.
        dtype: wanted.
        name: of the tensor, for errors.

    Raises:
        UsageError: a finite number is too large for the type.
    """
    import torch

    out = tensor.to(dtype.torch)
    too_large = torch.isinf(out) & torch.isfinite(tensor)
    if bool(too_large.any()):
        largest = float(tensor[too_large].abs().max())
        raise UsageError(
            f"tensor {name!r}: found {largest:.6g}; wanted at most {torch.finfo(dtype.torch).max:.6g}, where "
            f"{dtype.torch_name} ends; choose float32 or bfloat16"
        )
    return out
