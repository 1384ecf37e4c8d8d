"""Quantiser steps that every machine computes alike: a float32 times a power of two in eighths of an octave.

The fractional powers are constants, the whole ones are exact, so no decoder ever calls exp2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# 2^(i/8), i = 0 ... 7, each the nearest float32.
_FRACTIONS = np.array(
    [
        float.fromhex(text)
        for text in (
            *("0x1.000000p+0", "0x1.172b84p+0", "0x1.306fe0p+0", "0x1.4bfdaep+0"),
            *("0x1.6a09e6p+0", "0x1.8ace54p+0", "0x1.ae89fap+0", "0x1.d5818ep+0"),
        )
    ],
    np.float32,
)
# The same in 1/4096, for synthesis in integers.
_FIXED = np.array([4096, 4467, 4871, 5312, 5793, 6317, 6889, 7512], np.int64)
FIXED_BITS = 12
# Steps outside of this would meet float32's subnormals or its end: such weights are not coded lossily.
MAX_LOG2_STEP = 100  # either way
MIN_STEP, MAX_STEP = 2.0**-MAX_LOG2_STEP, 2.0**MAX_LOG2_STEP
MAX_EXPONENT = 128  # in eighths of an octave, either way


def power(exponent: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """2^(exponent / 8) as float32."""
    result: npt.NDArray[np.float32] = np.ldexp(_FRACTIONS[exponent & 7], exponent >> 3)
    return result


def fixed_power(exponent: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """2^(exponent / 8) in units of 2^-FIXED_BITS, for exponents >= 0."""
    result: npt.NDArray[np.int64] = _FIXED[exponent & 7] << (exponent >> 3).astype(np.int64)
    return result
