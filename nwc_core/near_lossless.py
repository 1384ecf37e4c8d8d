"""Floats rounded to so few mantissa bits as an error that is named allows: what is left, the lossless coder makes small."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nwc_core.dtypes import from_torch
from nwc_core.lossless import tensor_bytes, tensor_from_bytes

if TYPE_CHECKING:
    import torch

_MANTISSA_BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7}


def rounded(tensor: torch.Tensor, max_relative_error: float) -> torch.Tensor:
    """The tensor with every element off by at most so much of its own magnitude; same shape and dtype.

    Mantissas are rounded to the nearest of k bits, ties to even, which is off by at most 2^-(k + 1). What that would not hold
    for stays bit for bit: zeros, subnormals, NaN, infinities, and what would become infinite. Other types than floats of 16
    bits and more are returned as they are.

    Args:
        tensor: of any dtype and shape.
        max_relative_error: above 0, below 0.5.
    """
    dtype = from_torch(tensor.dtype)
    if dtype.name not in _MANTISSA_BITS or not tensor.numel():
        return tensor
    mantissa = _MANTISSA_BITS[dtype.name]
    dropped = mantissa - max(0, math.ceil(-math.log2(max_relative_error)) - 1)
    if dropped <= 0:
        return tensor
    bits: np.ndarray[Any, np.dtype[Any]] = tensor_bytes(tensor).view(f"<u{dtype.itemsize}")
    one = bits.dtype.type(1)
    places, largest = bits.dtype.type(dropped), (1 << (8 * dtype.itemsize - 1 - mantissa)) - 1
    exponent = bits >> bits.dtype.type(mantissa) & bits.dtype.type(largest)
    half = (one << (places - one)) - one + (bits >> places & one)
    new = (bits + half) >> places << places
    infinite = (new >> bits.dtype.type(mantissa) & bits.dtype.type(largest)) == largest
    kept = (exponent == 0) | (exponent == largest) | infinite
    return tensor_from_bytes(np.where(kept, bits, new).view(np.uint8), dtype.torch, tuple(tensor.shape))


def mean_squared_difference(near: torch.Tensor, tensor: torch.Tensor) -> float:
    """In float64, and no more than that holds; NaN and infinities, which are the same in both, do not differ."""
    import torch

    apart = near.to(torch.float64) - tensor.to(torch.float64)
    found = float(torch.where(torch.isfinite(tensor), apart, 0.0).square().mean())
    return min(found, sys.float_info.max)


def within(near: torch.Tensor, tensor: torch.Tensor, max_error: float) -> bool:
    """Whether no element is off by more than that."""
    return _close(near, tensor, lambda before: max_error)


def within_relative(near: torch.Tensor, tensor: torch.Tensor, max_error: float) -> bool:
    """Whether no element is off by more than so much of its own magnitude."""
    return _close(near, tensor, lambda before: max_error * before.abs())


def _close(near: torch.Tensor, tensor: torch.Tensor, allowed: Callable[[torch.Tensor], torch.Tensor | float]) -> bool:
    import torch

    before, after = tensor.to(torch.float64), near.to(torch.float64)
    close = (after - before).abs() <= allowed(before)
    return bool((close | (after == before) | (before.isnan() & after.isnan())).all())


@dataclass(frozen=True)
class Bound:
    """What no element may be off by more than: so much (`absolute`), or so much of its own magnitude (`relative`).

    Attributes:
        absolute, relative: one of them is given.
    """

    absolute: float | None = None
    relative: float | None = None

    def holds(self, near: torch.Tensor, tensor: torch.Tensor) -> bool:
        """Whether it does."""
        if self.absolute is not None:
            return within(near, tensor, self.absolute)
        assert self.relative is not None
        return within_relative(near, tensor, self.relative)

    def __str__(self) -> str:
        return f"{self.absolute:g}" if self.absolute is not None else f"{self.relative:g} of itself"
