"""How a calibration is cut: items into chunks by the data alone, weights into groups by memory, results into objects."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from nwc_workflows.calibration.finish import Weight
from nwc_workflows.calibration.placement import Placement
from nwc_workflows.calibration.record import FORMAT, VERSION
from nwc_workflows.calibration.sums import sums_nbytes

# Every chunk stores sums of its own for every weight, as large as the result whatever the chunk, so there are few. Fewer
# would say less about how far the sums can be trusted, and would keep fewer workers busy.
MAX_CHUNKS = 8
# Statistics are stored together up to this: few objects, and little memory in the worker that makes one.
_OBJECT_NBYTES = 64 << 20

Placements = Mapping[str, Sequence[Placement]]


def cut_items(count: int) -> list[tuple[int, int]]:
    """(start, stop) of each chunk of so many items."""
    chunks = min(MAX_CHUNKS, count)
    ends = [count * i // chunks for i in range(chunks + 1)]
    return list(pairwise(ends))


def group_weights(placements: Placements, max_nbytes: int) -> list[list[str]]:
    """Weights whose sums are added up together: in order, as many as fit, at least one."""
    groups: list[list[str]] = []
    left = 0
    for name, of in placements.items():
        nbytes = weight_nbytes(of)
        if not groups or nbytes > left:
            groups.append([])
            left = max_nbytes
        groups[-1].append(name)
        left -= nbytes
    return groups


def weight_nbytes(of: Sequence[Placement]) -> int:
    """Bytes of the sums of one weight while they are added up, and of its gradient."""
    shape = of[0].layout.matrix_shape(of[0].shape)
    return sums_nbytes(shape) + 4 * math.prod(shape)


def families(placements: Placements, partials: Mapping[str, tuple[str, ...]]) -> Iterator[list[Weight]]:
    """Weights with those whose matrices are of the same stack of experts, in order of the first.

    Args:
        placements: of all weights, by name.
        partials: keys of the partial sums of each weight.
    """
    found: dict[tuple[Any, ...], list[Weight]] = {}
    for name, of in placements.items():
        weight = Weight(name, of[0].shape, of[0].layout, partials[name])
        piece = of[0].piece
        stacked = len(piece.box) == 3 and len(of) == 1 and (len(weight.shape) == 2 or weight.layout.batch == 1)
        key = (piece.parameter, piece.box[1:], piece.axes[1:], weight.layout.order) if stacked else (name,)
        found.setdefault(key, []).append(weight)
    yield from found.values()


def pack_families(of: Iterable[list[Weight]]) -> list[list[list[Weight]]]:
    """Families whose statistics are finished by one task and stored in one object, in order."""
    packs: list[list[list[Weight]]] = []
    left = 0
    for family in of:
        nbytes = sum(weight.nbytes for weight in family)
        if not packs or nbytes > left:
            packs.append([])
            left = _OBJECT_NBYTES
        packs[-1].append(family)
        left -= nbytes
    return packs


def fingerprint(model: str, description: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that determines the statistics.

    Args:
        model: digest of the weights.
        description: of the data, digest included.
        options: that matter.
    """
    described = {"format": FORMAT, "version": VERSION, "model": model, "data": description, "options": options}
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
