"""Cutting tensors into blocks, and blocks into tasks. The cuts depend on the checkpoint alone, never on the workers.

A block is a contiguous range of a tensor's elements, so that a worker reads it with one byte range: whole tensors where
they fit, else runs of rows along the first axis, else runs of rows inside one slice of it (one expert of a stack).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nwc_core.codec import lossy_candidate
from nwc_workflows.sources import SourceTensor

# Bounds a worker's memory: see `task_memory`. Smaller blocks would pay for their scales more often.
MAX_BLOCK_WEIGHTS = 1 << 23
# A task writes one payload object: large enough for few requests, small enough that all workers stay busy to the end.
MIN_TASK_WEIGHTS, MAX_TASK_WEIGHTS = 1 << 20, 1 << 23
TASKS_WANTED = 8
# Blocks of one tensor that share an H of so many columns and more stay in one task, up to so many weights: its factor is
# computed once for all of them. Of 4,096 columns that takes as long as coding a block, of 11,008 ten times as long.
WIDE_COLUMNS, MAX_SHARED_WEIGHTS = 2048, 1 << 26
# What coding one weight holds at its peak, measured: source bytes, float32 copy, squares, levels, steps, points,back.
BYTES_PER_WEIGHT = 48
# A worker's interpreter with torch and the compiled kernels.
BASE_MEMORY = 600 << 20


@dataclass(frozen=True)
class Block:
    """One block to code.

    Attributes:
        tensor: the tensor that it is part of.
        number: of the block in its tensor.
        start: first element, in the flattened tensor.
        shape: the block's own.
        lossy: whether the lossy coder is asked for.
    """

    tensor: SourceTensor
    number: int
    start: int
    shape: tuple[int, ...]
    lossy: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """Element behind the last one, in the flattened tensor."""
        return self.start + self.numel

    @property
    def nbytes(self) -> int:
        """Source bytes."""
        return self.numel * self.tensor.dtype.itemsize


@dataclass(frozen=True)
class Task:
    """Blocks that one worker codes one after the other and stores as one payload.

    Attributes:
        key: names the task: its first block, and how many follow.
        blocks: in stored order, but that those which may be copies of a block follow it.
    """

    key: str
    blocks: tuple[Block, ...]

    @property
    def nbytes(self) -> int:
        """Source bytes of all blocks."""
        return sum(block.nbytes for block in self.blocks)

    @property
    def memory(self) -> int:
        """The most bytes that the worker holds at once."""
        largest = max(block.numel for block in self.blocks)
        return BASE_MEMORY + largest * BYTES_PER_WEIGHT + self.nbytes // 2


def cut_tensor(tensor: SourceTensor, limit: int = MAX_BLOCK_WEIGHTS, *, lossless: bool = False) -> list[Block]:
    """The blocks of a tensor, in order.

    Args:
        tensor: to cut; an empty one is one empty block.
        limit: weights of a block, at most.
        lossless: none of it goes to the lossy coder.
    """

    def lossy(shape: tuple[int, ...]) -> bool:
        return not lossless and lossy_candidate(tensor.dtype.name, shape)

    if tensor.numel <= limit:
        return [Block(tensor, 0, 0, tensor.shape, lossy(tensor.shape))]
    return [
        # By the block's own shape: a run of rows may be too small for the lossy coder where its tensor was not.
        Block(tensor, number, start, shape, lossy(shape))
        for number, (start, shape) in enumerate(_cut(tensor.shape, limit))
    ]


def _cut(shape: tuple[int, ...], limit: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(first element, shape) of contiguous pieces, in order."""
    if math.prod(shape) <= limit or not shape:
        yield 0, shape
        return
    inner = math.prod(shape[1:])
    if inner > limit and len(shape) > 1:
        for index in range(shape[0]):
            for start, piece in _cut(shape[1:], limit):
                yield index * inner + start, piece
        return
    count = -(-shape[0] // max(1, limit // inner))
    rows = -(-shape[0] // count)  # pieces of equal size rather than a small last one
    for first in range(0, shape[0], rows):
        yield first * inner, (min(rows, shape[0] - first), *shape[1:])


def pack_tasks(
    blocks: Iterable[Block], columns: Mapping[str, int] | None = None, alike: Mapping[str, str] | None = None
) -> list[Task]:
    """Group blocks, in order, into tasks of like size.

    Args:
        columns: of the H that all blocks of a tensor share, for tensors with one; by name.
        alike: name of a tensor to that of one that it may be a copy of: their blocks stay together.
    """
    columns, alike = columns or {}, alike or {}
    units: dict[tuple[str, int], list[Block]] = {}
    for block in blocks:
        units.setdefault((alike.get(block.tensor.name, block.tensor.name), block.number), []).append(block)
    total = sum(block.numel for unit in units.values() for block in unit)
    wanted = min(max(total // TASKS_WANTED, MIN_TASK_WEIGHTS), MAX_TASK_WEIGHTS)
    tasks: list[Task] = []
    group: list[Block] = []
    size, before = 0, ""
    for (name, _), unit in units.items():
        unit.sort(key=lambda block: block.tensor.name in alike)  # behind the one whose copies they may be
        numel = sum(block.numel for block in unit)
        shares = bool(group) and before == name and columns.get(name, 0) >= WIDE_COLUMNS
        if group and size + numel > (MAX_SHARED_WEIGHTS if shares else wanted):
            tasks.append(_task(group))
            group, size = [], 0
        group += unit
        size += numel
        before = name
    if group:
        tasks.append(_task(group))
    return tasks


def _task(blocks: list[Block]) -> Task:
    first = blocks[0]
    name = f"{first.tensor.name}#{first.number}"
    return Task(name if len(blocks) == 1 else f"{name} and {len(blocks) - 1} more", tuple(blocks))
