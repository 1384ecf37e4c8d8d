"""How many bits each block gets: one price of error for the whole model.

At the least loss of a given size, the last bit spent on any block lowers the loss by the same amount, so one number, theta (see
`nwc_core.rate_curve`), gives all rates. It is found by bisection, in the order of the blocks: equal curves give equal rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nwc_core.importance import DISTORTION
from nwc_core.rate_curve import RATES, RateCurve

LEAST_RATE = float(RATES[0])
_HALVINGS = 60  # of the interval between the thetas of any two blocks: far below what a rate could show


@dataclass(frozen=True)
class Unreached:
    """A block of which a calibration knows nothing: it gets the average rate."""

    numel: int


@dataclass(frozen=True)
class Lossless:
    """A block whose values the lossy coder does not take; it has this size whatever the rate."""

    numel: int
    nbytes: int


Measured = RateCurve | Unreached | Lossless


@dataclass(frozen=True)
class Allocation:
    """Rates of blocks.

    Attributes:
        rates: bits per weight of each block, in order.
        loss: predicted, in the unit of the calibration: nats per token or item, or squared error of a unit-length
            embedding. Of the blocks with statistics; 0 if there are none.
    """

    rates: tuple[float, ...]
    loss: float


def allocate(measured: Sequence[Measured], bits: float, *, as_good_as: bool = False) -> Allocation:
    """Spend `bits` per weight on all blocks together.

    Args:
        measured: of each block, in order.
        bits: average over all; those that are lossless leave, or take, what differs from it.
        as_good_as: the average is what blocks would get if each were coded alone; those with a base get less, for the same
            loss.

    Returns:
        Rates whose total is the budget, as far as the range of rates allows: at least LEAST_RATE each.
    """
    if as_good_as:
        return _as_good_as(measured, bits)
    budget = bits * sum(block.numel for block in measured)
    budget -= sum(8 * block.nbytes for block in measured if isinstance(block, Lossless))
    lossy = sum(block.numel for block in measured if not isinstance(block, Lossless))
    average = max(LEAST_RATE, budget / max(1, lossy))
    curves = [block for block in measured if isinstance(block, RateCurve)]
    log2_theta = _theta(curves, average)
    rates = tuple(
        block.bits_at(log2_theta) if isinstance(block, RateCurve) and average < RATES[-1] else average
        for block in measured
    )
    return Allocation(rates, predicted_loss(measured, rates))


def _as_good_as(measured: Sequence[Measured], bits: float) -> Allocation:
    curves = [block.without_base() for block in measured if isinstance(block, RateCurve)]
    log2_theta = _theta(curves, max(LEAST_RATE, bits))
    rates = tuple(block.bits_at(log2_theta) if isinstance(block, RateCurve) else bits for block in measured)
    return Allocation(rates, predicted_loss(measured, rates))


def predicted_loss(measured: Sequence[Measured], rates: Sequence[float]) -> float:
    """The loss at these rates, by the curves of those blocks that have one."""
    pairs = [(block, rate) for block, rate in zip(measured, rates, strict=True) if isinstance(block, RateCurve)]
    thetas = [math.exp2(np.interp(rate, RATES, curve.log2_theta)) for curve, rate in pairs]
    return sum(DISTORTION / 2 * theta * curve.numel for theta, (curve, _) in zip(thetas, pairs, strict=True))


def bits_for(measured: Sequence[Measured], loss: float) -> float:
    """Bits per weight, over all blocks with curves, at which their predicted loss is about this; LEAST_RATE if none has."""
    curves = [block for block in measured if isinstance(block, RateCurve)]
    numel = sum(curve.numel for curve in curves)
    if not numel:
        return LEAST_RATE
    log2_theta = math.log2(2 * loss / (DISTORTION * numel))
    return sum(curve.numel * curve.bits_at(log2_theta) for curve in curves) / numel


def _theta(curves: Sequence[RateCurve], average: float) -> float:
    """log2 of the theta at which the curves take `average` bits per weight together."""
    if not curves:
        return 0.0
    budget = average * sum(curve.numel for curve in curves)
    low, high = (float(pick(curve.log2_theta[at] for curve in curves)) for pick, at in ((min, -1), (max, 0)))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if sum(curve.numel * curve.bits_at(middle) for curve in curves) > budget:
            low = middle
        else:
            high = middle
    return high  # of the two the one that stays within the budget
