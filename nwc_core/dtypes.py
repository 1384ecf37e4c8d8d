"""The element types of safetensors: name in the file, torch type, size.

The names are the wire names of the safetensors format; nwc stores them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DType:
    """One element type.

    Attributes:
        name: safetensors' name, e.g. "BF16".
        torch_name: attribute of the torch module, e.g. "bfloat16".
        itemsize: bytes per element.
        lossy: whether weights of this type may go to the lossy codec. Integers, booleans and 8-bit floats are
            already quantised, or not weights at all, so only a lossless coder touches them.
    """

    name: str
    torch_name: str
    itemsize: int
    lossy: bool

    @property
    def torch(self) -> torch.dtype:
        """The torch type; imports torch."""
        import torch

        dtype: torch.dtype = getattr(torch, self.torch_name)
        return dtype


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("F64", "float64", 8, True),
        DType("F32", "float32", 4, True),
        DType("F16", "float16", 2, True),
        DType("BF16", "bfloat16", 2, True),
        DType("F8_E4M3", "float8_e4m3fn", 1, False),
        DType("F8_E5M2", "float8_e5m2", 1, False),
        DType("F8_E8M0", "float8_e8m0fnu", 1, False),
        DType("I64", "int64", 8, False),
        DType("I32", "int32", 4, False),
        DType("I16", "int16", 2, False),
        DType("I8", "int8", 1, False),
        DType("U64", "uint64", 8, False),
        DType("U32", "uint32", 4, False),
        DType("U16", "uint16", 2, False),
        DType("U8", "uint8", 1, False),
        DType("BOOL", "bool", 1, False),
        DType("C64", "complex64", 8, False),
    )
}


@cache
def _by_torch() -> dict[torch.dtype, DType]:
    return {d.torch: d for d in DTYPES.values()}


def from_torch(dtype: torch.dtype) -> DType:
    """The DType of a torch type.

    Raises:
        KeyError: safetensors has no name for it.
    """
    return _by_torch()[dtype]
