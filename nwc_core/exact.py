"""Sums of integers held in float64: exact below 2^53, in whatever order, on whatever device they are added."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LIMIT = float(1 << 53)


class Inexact(Exception):  # noqa: N818  not an error: the encoder chooses otherwise, the decoder names the tensor
    """Sums would leave the range in which float64 holds every integer."""


def check_exact(values: npt.NDArray[np.float64], growth: float) -> None:
    """Raises Inexact unless sums of up to `growth` times the greatest magnitude stay exact."""
    if values.size and max(float(values.max()), -float(values.min())) * growth >= LIMIT:
        raise Inexact
