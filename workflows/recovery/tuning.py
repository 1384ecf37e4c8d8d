"""Tuning a vector of values in a given time: rounds of Adam, each kept only if the loss on held-out data fell.

After a round that helped the rate grows, after one that did not the values go back and it falls: so nobody has to choose it,
and it is over when no rate helps. What a round proposes is the mean of its last steps, which is less noisy than the last one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

_ROUND = 30  # steps at most
_RATE = 1e-3  # first, in units of each value's scale
_FASTER, _SLOWER = 2.0, 0.25
_LEAST_RATE, _MOST_RATE = 1e-5, 3e-2
_BETAS = (0.9, 0.99)  # a round is too short for Adam's usual 0.999


class Loss(Protocol):
    """What is to become small; see `nwc_workflows.recovery.objective`."""

    @property
    def training(self) -> Sequence[int]: ...

    def loss(self, values: torch.Tensor, number: int) -> torch.Tensor: ...

    def held_out_loss(self, values: torch.Tensor) -> float: ...


@dataclass(frozen=True)
class Tuned:
    """What came of it: `values` are as they will be stored, the very ones from before if nothing helped.

    Attributes:
        values: float32 [n].
        before, after: loss on the held-out data.
        steps: that were made.
    """

    values: torch.Tensor
    before: float
    after: float
    steps: int


def tune(
    objective: Loss,
    start: torch.Tensor,
    scale: torch.Tensor,
    stored: Callable[[torch.Tensor], torch.Tensor],
    *,
    seconds: float,
    steps: int | None = None,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Tuned:
    """Tune values.

    Args:
        objective: the loss.
        start: float32 [n].
        scale: float32 [n], the size of each value's kind: a step is in proportion to it.
        stored: what becomes of values when they are stored.
        seconds: after which no further step is made.
        steps: at most; None for as many as the time allows. Which batch comes when depends on nothing else.
        advance: called with seconds that passed.
    """
    clock = _Clock(seconds, advance)
    random = torch.Generator().manual_seed(0)
    order: list[int] = []
    before = best_loss = objective.held_out_loss(start)
    best = at = start
    rate, made = _RATE, 0
    size = min(_ROUND, max(1, len(objective.training)))
    while best_loss > 0 and rate >= _LEAST_RATE and not clock.over() and (steps is None or made < steps):
        offset = torch.zeros_like(start, requires_grad=True)  # in units of the scale
        adam = torch.optim.Adam([offset], lr=rate, betas=_BETAS)
        mean, averaged = torch.zeros_like(start), 0
        for step in range(size if steps is None else min(size, steps - made)):
            if clock.over():
                break
            order = order or torch.randperm(len(objective.training), generator=random).tolist()
            adam.zero_grad()
            objective.loss(at + offset * scale, objective.training[order.pop()]).backward()  # type: ignore[no-untyped-call]
            adam.step()
            made += 1
            if step >= size // 2:
                averaged += 1
                mean += (offset.detach() - mean) / averaged
        proposed = at + (mean if averaged else offset.detach()) * scale
        rounded = stored(proposed)
        loss = objective.held_out_loss(rounded)
        if math.isfinite(loss) and loss < best_loss:
            best, best_loss, at = rounded, loss, proposed
            rate = min(rate * _FASTER, _MOST_RATE)
        else:
            rate *= _SLOWER
    clock.over()
    return Tuned(best, before, best_loss, made)


class _Clock:
    def __init__(self, seconds: float, advance: Callable[[float], None]) -> None:
        self._start = self._told = time.monotonic()
        self._seconds, self._advance = seconds, advance

    def over(self) -> bool:
        """Whether the time is up; reports what passed since it was asked last."""
        now = time.monotonic()
        self._advance(now - self._told)
        self._told = now
        return now - self._start >= self._seconds
