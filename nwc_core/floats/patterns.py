"""What the bits of a float are to the coder: a sign, a *top*, and mantissa bits below it.

The top is the exponent field with the first three mantissa bits behind it (all of them in a type that has fewer). It counts
cells of eight to an octave, and only it has a distribution worth coding: an exponent alone costs 0.08 bit more, because within
an octave the smaller weights are the more frequent ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_CELL_BITS = 3


@dataclass(frozen=True)
class Patterns:
    """One type of floats.

    Attributes:
        exponent_bits, mantissa_bits: of the type, besides one bit of sign.
    """

    exponent_bits: int
    mantissa_bits: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Integers that hold the patterns."""
        return np.dtype(f"u{self.bits // 8}")

    @property
    def cell_bits(self) -> int:
        """log2 of the cells of an octave."""
        return min(_MOST_CELL_BITS, self.mantissa_bits)

    @property
    def low_bits(self) -> int:
        """Mantissa bits below the top."""
        return self.mantissa_bits - self.cell_bits

    @property
    def tops(self) -> int:
        """How many there are."""
        return 1 << self.exponent_bits + self.cell_bits

    @property
    def one(self) -> int:
        """The top of 1.0."""
        return (1 << self.exponent_bits - 1) - 1 << self.cell_bits

    def top(self, patterns: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int32]:
        """Of each pattern."""
        return ((patterns >> self.low_bits) & (self.tops - 1)).astype(np.int32)


# By safetensors' name. Float64 is rare among weights, and F8_E8M0 has no sign: both are left to Zstandard.
PATTERNS = {
    "F32": Patterns(8, 23),
    "F16": Patterns(5, 10),
    "BF16": Patterns(8, 7),
    "F8_E4M3": Patterns(4, 3),
    "F8_E5M2": Patterns(5, 2),
}
