"""Sums of integers held in floats: exact while they are small, in whatever order, on whatever device they are added."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LIMIT = float(1 << 53)  # of float64
LIMIT_SHORT = float(1 << 24)  # of float32
Integers = npt.NDArray[np.float64] | npt.NDArray[np.float32]


class Inexact(Exception):  # noqa: N818  not an error: the encoder chooses otherwise, the decoder names the tensor
    """Sums would leave the range in which float64 holds every integer."""


def peak_of(values: npt.NDArray[np.int32] | Integers) -> float:
    """The greatest magnitude."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def check_exact(values: Integers, peak: float, growth: float) -> None:
    """Raises Inexact unless sums of up to `growth` times the greatest magnitude, known to be at most `peak`, stay exact."""
    if peak * growth >= LIMIT and peak_of(values) * growth >= LIMIT:
        raise Inexact
