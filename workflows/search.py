"""The smallest rate at which a metric is good enough, in few trials.

An error that is small falls by the same factor with every bit: a squared error, and a divergence, to a quarter; a share of
answers that change, to a half. So the next trial is where a line through the logarithms meets the target; between a
rate that was enough and one that was not, if both are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TRIALS = 8
_WANTED_TRIALS = 4  # after which one that is good enough will do, or two more if none was not: the least is farther off
_AIM = 0.97  # of the target, so that about one guess in two need not be repeated
_CLOSE = 0.93  # share of the target from which a rate is near enough to the least: 0.05 bit for a squared error
_NEAR = 0.03  # bits per weight between enough and not enough: no need to look closer
_APART = 0.05  # bits per weight from which two trials say something about the slope


@dataclass(frozen=True)
class Tried:
    """One trial: bits per weight of the lossy tensors, and the metric there."""

    bits: float
    value: float


def slope_of(metric: str) -> float:
    """By how much the logarithm of a metric falls with each bit."""
    return math.log(2) if metric == "top1-drop" else 2 * math.log(2)


def next_bits(tried: Sequence[Tried], target: float, slope: float, least: float, most: float) -> float | None:
    """Where to try next; None if the search is over: the best trial is good enough, or none will be.

    Args:
        tried: so far, at least one.
        target: the most that the metric may be.
        slope: see `slope_of`.
        least, most: bounds of the bits.
    """
    enough = min((trial for trial in tried if trial.value <= target), key=lambda trial: trial.bits, default=None)
    bound = math.inf if enough is None else enough.bits
    short = max((trial for trial in tried if trial.value > target and trial.bits < bound), key=_bits, default=None)
    if enough is None and short is not None and (short.bits >= most or len(tried) >= MOST_TRIALS):
        return None
    if enough is not None and (
        enough.value >= _CLOSE * target
        or enough.bits <= least
        or len(tried) >= _WANTED_TRIALS + (2 if short is None else 0)
        or (short is not None and enough.bits - short.bits < _NEAR)
    ):
        return None
    guess = _guess(tried, target, slope)
    if enough is not None and short is not None:
        # No logarithm tells how far above a rate without any loss is: then halfway.
        margin = (0.1 if enough.value > 0 else 0.5) * (enough.bits - short.bits)
        guess = min(max(guess, short.bits + margin), enough.bits - margin)
    elif enough is not None:
        guess = min(guess, enough.bits - _NEAR)
    elif short is not None:  # the more misses, the longer the steps: the slope is not what it should be
        guess = max(guess, short.bits + _NEAR * 2 ** len(tried))
    return min(max(guess, least), most)


def _bits(trial: Tried) -> float:
    return trial.bits


def _guess(tried: Sequence[Tried], target: float, slope: float) -> float:
    """Where the logarithm of the metric, a line in the bits, meets the target."""
    positive = sorted(
        (trial for trial in tried if trial.value > 0), key=lambda trial: abs(math.log(trial.value / target))
    )
    if not positive:  # no loss to be seen: one bit less
        return min(trial.bits for trial in tried) - 1
    nearest = positive[0]
    other = next((trial for trial in positive if abs(trial.bits - nearest.bits) > _APART), None)
    if other is not None:
        measured = math.log(other.value / nearest.value) / (nearest.bits - other.bits)
        slope = min(max(measured, slope / 2), slope * 1.5)
    return nearest.bits + math.log(nearest.value / (_AIM * target)) / slope
