"""What models put out beside the original: one judge for all, so that the original runs as seldom as memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nwc_workflows.evaluate import Prepared
from nwc_workflows.evaluation.models import load_model
from nwc_workflows.evaluation.stored import StoredModel
from nwc_workflows.evaluation.task import Figures

if TYPE_CHECKING:
    import torch

_KEPT_NBYTES = 1 << 30  # of the original's outputs on all the data; more are computed anew for each method


class Judge:
    """Compares models with the original, whose outputs are kept if they are small enough.

    Attributes:
        original: figures of the original by itself; empty before the first comparison.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._kept: list[torch.Tensor] | None = None
        self.original: Figures = {}

    def figures(self, candidate: StoredModel) -> Figures:
        """Raises FormatError: the candidate's weights are not those of the model."""
        task = self._prepared.task
        found = task.compare(self._before(), task.outputs(self._load(candidate), _ignore))
        self.original = found.original
        return found.compressed

    def _before(self) -> Iterator[torch.Tensor]:
        if self._kept is not None:
            yield from self._kept
            return
        task, nbytes = self._prepared.task, 0
        kept: list[torch.Tensor] = []
        for output in task.outputs(self._load(self._prepared.original), _ignore):
            nbytes += output.nbytes
            if task.keeps_outputs or nbytes <= _KEPT_NBYTES:
                kept.append(output)
            else:
                kept.clear()
            yield output
        self._kept = kept or None

    def _load(self, stored: StoredModel) -> torch.nn.Module:
        return load_model(stored, self._prepared.original, self._prepared.kind, self._prepared.factory)


def _ignore(amount: float) -> None:
    """The benchmark counts whole methods."""
