"""Checkpoints in families: models so alike that a codec trained on one has seen the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from nwc_core.errors import UsageError
from nwc_core.matrices import default_layout
from nwc_workflows.train import TrainingSource, find_sources

ALL = "all"  # families together


@dataclass(frozen=True)
class Family:
    """Checkpoints of one kind.

    Attributes:
        name: in tables and plots.
        sources: the checkpoints.
    """

    name: str
    sources: Sequence[TrainingSource]

    def convolutions(self) -> list[TrainingSource]:
        """Its checkpoints with nothing but kernels of 3x3 in them; those that have none are left out."""
        found = []
        for source in self.sources:
            kernels = tuple(tensor for tensor in source.checkpoint.tensors if _is_3x3(tensor.shape))
            if kernels:
                found.append(replace(source, checkpoint=replace(source.checkpoint, tensors=kernels)))
        return found


def find_families(given: Sequence[str]) -> list[Family]:
    """Families from the command line, each one or several checkpoints joined by commas; see `find_sources`.

    A family's name is that of its first checkpoint, and how many more there are.

    Raises:
        UsageError: fewer than two, or two families or two checkpoints of one name.
        NwcError: a checkpoint cannot be read.
    """
    if len(given) < 2:
        raise UsageError(
            f"families: found {len(given)}; wanted at least two: one is left out, the others are trained on"
        )
    families = []
    for paths in given:
        parts = paths.split(",")
        if not all(parts):
            raise UsageError(
                f"families: found {paths!r}, with an empty name in it; wanted checkpoints joined by commas"
            )
        more = f" + {len(parts) - 1}" if len(parts) > 1 else ""
        families.append(Family(PurePath(parts[0]).name + more, find_sources(parts)))
    for what, names in {
        "families": [ALL, *(family.name for family in families)],
        "checkpoints": [source.name for family in families for source in family.sources],
    }.items():
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{what}: found two named {name!r}; wanted different names")
    return families


def _is_3x3(shape: tuple[int, ...]) -> bool:
    layout = default_layout(shape)
    return layout.kernel == 2 and layout.taps(shape) == 9
