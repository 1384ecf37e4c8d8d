"""Meeting a size exactly: which tasks to code once more, a little lower or higher, when the first coding missed it.

The encoder meets the rate of a block to a few thousandths of a bit, so a size is missed by about a thousandth. The fewest tasks
that can make up for it are coded again: their rates move by so little that the loss hardly notices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nwc_workflows.allocate import LEAST_RATE

SHORTFALL = 0.005  # share of the size asked for that may be left unused
ROUNDS = 5  # of coding again; every one but the first is rare
_AIM = 0.9985  # of the size: above it by chance would cost another round
_STEP = 0.05  # bits per weight by which a task's rates move if a single one is to make up for all


@dataclass(frozen=True)
class TaskSize:
    """A task as coded.

    Attributes:
        rates: asked for, bits per weight, of the blocks that are to be coded lossily, in order.
        numels: of these blocks; 0 where the codec found lossless coding to be better, which no rate changes.
    """

    rates: tuple[float, ...]
    numels: tuple[int, ...]


def fits(nbytes: int, max_bytes: int) -> bool:
    return (1 - SHORTFALL) * max_bytes <= nbytes <= max_bytes


def corrected(tasks: Sequence[TaskSize], nbytes: int, max_bytes: int) -> dict[int, tuple[float, ...]]:
    """New rates of the tasks to be coded again, by position; empty if no rate of any can be moved that way.

    Args:
        tasks: as coded.
        nbytes: of the artifact that they make.
        max_bytes: of the artifact as it is wanted.
    """
    missing = 8 * (_AIM * max_bytes - nbytes)  # bits; negative to shrink
    movable = [_movable(task, missing < 0) for task in tasks]
    chosen: list[int] = []
    for index in sorted(range(len(tasks)), key=lambda index: (-movable[index], index)):
        if movable[index]:
            chosen.append(index)
        if chosen and abs(missing) <= _STEP * sum(movable[index] for index in chosen):
            break
    if not chosen:
        return {}
    move = missing / sum(movable[index] for index in chosen)
    return {index: tuple(max(LEAST_RATE, rate + move) for rate in tasks[index].rates) for index in chosen}


def _movable(task: TaskSize, down: bool) -> int:
    """Weights whose rate can change."""
    pairs = zip(task.rates, task.numels, strict=True)
    return sum(numel for rate, numel in pairs if not down or rate > LEAST_RATE)
