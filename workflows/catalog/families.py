"""Which models of a catalog are coded against which others: those that the file names, and for `base: auto` the likest.

A model waits for its base, so bases come first. Relatives have tensors of the same names, shapes and types; how alike they are
is measured on a few ranges of their largest tensors. Only models that come earlier in the file are looked at, so that
adding one at its end changes no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nwc_core.errors import NwcError, UsageError
from nwc_workflows.catalog.members import Member
from nwc_workflows.sources import Checkpoint, SourceTensor, open_checkpoint, read_bytes, to_tensor

AUTO = "auto"
_SHARED = 0.5  # of a model's weights, in tensors of the same name, shape and type: less is no relative
_TENSORS, _ELEMENTS = 4, 1 << 14  # what is compared: so many tensors, so many elements in the middle of each
_LEAST_GAIN = 0.5  # bits per weight that a base must be expected to save
_OF_COPY = 16.0  # bits per weight that being the same counts as
_MOST_COMPARED = 16  # earlier models of the same kind, the last ones
_LONGEST = 8  # bases in a row that `auto` makes: reading a model decodes all of them
_READERS = 16


def with_bases(members: Sequence[Member], where: str) -> list[Member]:
    """The same models, each with what it is coded against, bases first and otherwise in order.

    Args:
        members: of a catalog, in order.
        where: the catalog's file, for errors.

    Raises:
        UsageError: models that are bases of each other; names the entry.
    """
    by_name = {member.name: member for member in members}
    bases: dict[str, str | None] = {}
    for member in members:
        asked = member.request.base
        bases[member.name] = asked if asked in by_name else None
        if asked == member.name:
            raise UsageError(f"{where}: models[{member.entry}].base: found {asked!r}, itself; wanted another model")
    if any(member.request.base == AUTO for member in members):
        bases.update(_likest(members, bases))
    resolved = {member.name: _with_base(member, bases[member.name], by_name) for member in members}
    return [resolved[name] for name in _in_order([member.name for member in members], bases, by_name, where)]


def _with_base(member: Member, base: str | None, by_name: dict[str, Member]) -> Member:
    if base is not None:
        return replace(member, request=replace(member.request, base=by_name[base].destination), base=base)
    if member.request.base == AUTO:
        return replace(member, request=replace(member.request, base=None))
    return member


def _in_order(
    names: Sequence[str], bases: dict[str, str | None], by_name: dict[str, Member], where: str
) -> Iterator[str]:
    given: set[str] = set()
    for name in names:
        chain: list[str] = []
        at: str | None = name
        while at is not None and at not in given:
            if at in chain:
                found = " of ".join([*chain[chain.index(at) :], at])
                raise UsageError(f"{where}: models[{by_name[at].entry}].base: found {found}; wanted no circle")
            chain.append(at)
            at = bases[at]
        given |= set(chain)
        yield from reversed(chain)


@dataclass(frozen=True, eq=False)
class _Sample:
    """What is looked at of a model.

    Attributes:
        kinds: name, shape and type of each tensor of floats, and its elements.
        checkpoint, tensors: where values come from.
    """

    kinds: dict[tuple[str, tuple[int, ...], str], int]
    checkpoint: Checkpoint
    tensors: dict[str, SourceTensor]

    @classmethod
    def of(cls, member: Member) -> _Sample | None:
        """None for a model that cannot be opened: its turn will tell why."""
        try:
            checkpoint = open_checkpoint(member.source)
        except NwcError:
            return None
        floats = [tensor for tensor in checkpoint.tensors if tensor.dtype.lossy]
        kinds = {(tensor.name, tensor.shape, tensor.dtype.name): tensor.numel for tensor in floats}
        return cls(kinds, checkpoint, {tensor.name: tensor for tensor in floats})

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """Elements in the middle of a tensor."""
        tensor = self.tensors[name]
        count = min(tensor.numel, _ELEMENTS)
        start = (tensor.numel - count) // 2
        raw = read_bytes(self.checkpoint, tensor, start, start + count)
        found: npt.NDArray[np.float32] = to_tensor(raw, tensor.dtype, (count,)).float().numpy()
        return found

    def shared(self, other: _Sample) -> list[str]:
        """Names of the largest tensors that both have; none if they are no relatives."""
        both = {kind: numel for kind, numel in self.kinds.items() if kind in other.kinds}
        if sum(both.values()) < _SHARED * sum(self.kinds.values()):
            return []
        return [kind[0] for kind in sorted(both, key=lambda kind: (-both[kind], kind))[:_TENSORS]]


def _likest(members: Sequence[Member], named: dict[str, str | None]) -> dict[str, str | None]:
    """The base of each model that asks for the likest; None where there is none worth it."""
    with ThreadPoolExecutor(_READERS) as pool:
        samples = dict(zip([member.name for member in members], pool.map(_Sample.of, members), strict=True))
    found: dict[str, str | None] = {}
    length = {member.name: 0 for member in members}
    for index, member in enumerate(members):
        base = named[member.name]
        if member.request.base == AUTO:
            earlier = [other.name for other in members[:index] if length[other.name] < _LONGEST]
            base = found[member.name] = _best(samples, member.name, earlier)
        length[member.name] = 0 if base is None else length[base] + 1
    return found


def _best(samples: dict[str, _Sample | None], name: str, earlier: Sequence[str]) -> str | None:
    mine = samples[name]
    if mine is None:
        return None
    related = [(other, mine.shared(sample)) for other in earlier if (sample := samples[other]) is not None]
    related = [(other, names) for other, names in related if names][-_MOST_COMPARED:]
    gains = []
    for other, names in related:
        sample = samples[other]
        assert sample is not None
        gains.append((_gain(mine, sample, names), other))
    best = max(gains, default=(0.0, ""))
    return best[1] if best[0] >= _LEAST_GAIN else None


def _gain(mine: _Sample, other: _Sample, names: Sequence[str]) -> float:
    """Bits per weight that the difference takes less than the weights, expected."""
    gains, weights = [], []
    for name in names:
        values, others = mine.values(name).astype(np.float64), other.values(name).astype(np.float64)
        whole, apart = np.square(values).sum(), np.square(values - others).sum()
        if not (math.isfinite(whole) and math.isfinite(apart)):
            continue
        gains.append(
            min(_OF_COPY, 0.5 * math.log2(whole / apart)) if whole and apart else _OF_COPY if not apart else 0.0
        )
        weights.append(mine.tensors[name].numel)
    pairs = zip(gains, weights, strict=True)
    return sum(gain * weight for gain, weight in pairs) / max(1, sum(weights))
