"""How the learning rate falls during training."""

from __future__ import annotations

import math


def cosine(done: float) -> float:
    """Share of the learning rate left when this share of the steps is done: the last ones average the noise out."""
    return 0.5 * (1 + math.cos(math.pi * done))
