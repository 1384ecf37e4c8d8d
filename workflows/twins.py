"""Tensors of a checkpoint that seem to hold the same: tied weights that were stored twice, experts copied from one.

Found by a few kilobytes of each, so that planning stays quick. What they have in common is for the worker to say: tensors
that are alike go into one task, whose worker sees the digests of all their bytes and stores equal blocks once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from nwc_core.artifact.index_checks import MAX_SHARING
from nwc_core.near_lossless import Bound
from nwc_workflows.base import BaseArtifact
from nwc_workflows.blocks import Block
from nwc_workflows.sources import Checkpoint, SourceTensor, read_bytes

MIN_NBYTES = 1 << 20  # of a tensor: for less, a request is not worth it
# Tensors of a dtype and shape: the layers of a network are no copies, and asking for each of them takes time.
MAX_ALIKE = MAX_SHARING
_SAMPLE_ELEMENTS = 1024
_READERS = 16


def find_alike(checkpoint: Checkpoint, known: Collection[str] = ()) -> dict[str, str]:
    """Name of a tensor to the name of the one that it seems to be a copy of.

    Args:
        checkpoint: to look at; some kilobytes of large tensors are read.
        known: names of tensors that a calibration knows. They are copies of nothing: each has statistics of its own.
    """
    groups: dict[tuple[object, ...], list[SourceTensor]] = defaultdict(list)
    for tensor in checkpoint.tensors:
        if tensor.nbytes >= MIN_NBYTES:
            groups[tensor.dtype, tensor.shape].append(tensor)
    alike = [group for group in groups.values() if 1 < len(group) <= MAX_ALIKE]
    for at in (0.0, 0.5, 1.0):  # of the tensor; the later ones of those only that are alike so far
        alike = [same for group in alike for same in _split(checkpoint, group, at)]
    found: dict[str, str] = {}
    for group in alike:
        first, *others = sorted(group, key=lambda tensor: tensor.name not in known)
        found |= {tensor.name: first.name for tensor in others if tensor.name not in known}
    return found


def _split(checkpoint: Checkpoint, group: list[SourceTensor], at: float) -> Iterable[list[SourceTensor]]:
    """Those of a group that have the same bytes there, if there are several."""
    start = round(at * (group[0].numel - _SAMPLE_ELEMENTS))
    with ThreadPoolExecutor(_READERS) as pool:
        read = partial(read_bytes, checkpoint, first_element=start, last=start + _SAMPLE_ELEMENTS)
        samples = list(pool.map(read, group))
    by_sample: dict[bytes, list[SourceTensor]] = defaultdict(list)
    for tensor, sample in zip(group, samples, strict=True):
        by_sample[sample].append(tensor)
    return [same for same in by_sample.values() if len(same) > 1]


@dataclass
class _First:
    position: int
    block: Block
    sharing: int = 1


class Copies:
    """The blocks of a task so far, to find those again that are the same.

    Args:
        base: what they are coded against.
    """

    def __init__(self, base: BaseArtifact | None) -> None:
        self._base = base
        self._firsts: dict[Hashable, _First] = {}

    def add(self, position: int, block: Block, source_sha256: bytes, bound: Bound | None = None) -> None:
        """Remember a block at this position in its task; arguments as for `find`."""
        if block.tensor.nbytes >= MIN_NBYTES:
            self._firsts.setdefault(_key(block, source_sha256, bound), _First(position, block))

    def find(self, block: Block, source_sha256: bytes, bound: Bound | None = None) -> int | None:
        """The position of a block that this one is a copy of, the same range of its tensor, and may share its bytes with.

        Args:
            block: that nothing weighs the errors of: else it is to be coded for what it does itself.
            source_sha256: digest of its source bytes.
            bound: on what its weights may be off by.
        """
        first = self._firsts.get(_key(block, source_sha256, bound))
        if first is None or first.sharing == MAX_SHARING:
            return None
        if self._base is not None and not self._base.alike(first.block, block):
            return None
        first.sharing += 1
        return first.position


def _key(block: Block, source_sha256: bytes, bound: Bound | None) -> Hashable:
    tensor = block.tensor
    return tensor.dtype, tensor.shape, block.start, block.shape, block.lossy, source_sha256, bound
