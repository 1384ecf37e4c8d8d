"""A report of whatever there is at a place, found out by looking at it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import UsageError
from nwc_core.store import open_store
from nwc_workflows.bench.plot_style import check_matplotlib
from nwc_workflows.checkpoint_writer import exists
from nwc_workflows.inspect import summarise
from nwc_workflows.original import with_original_power
from nwc_workflows.progress import Progress
from nwc_workflows.report.artifact import gather_artifact
from nwc_workflows.report.content import DEFAULT_PRICE, Price
from nwc_workflows.report.page import render
from nwc_workflows.sources import open_checkpoint


class Show(Protocol):
    """Shows the progress of a step."""

    def __call__(self, total: float, description: str, unit: str = "B") -> AbstractContextManager[Progress]: ...


@dataclass(frozen=True)
class Made:
    """A report: of which kind of thing, and the file's bytes."""

    kind: str
    data: bytes


def make_report(what: str, *, original: str | None = None, price: float | None = None, show: Show) -> Made:
    store = open_store(what, "destination")
    if exists(store, MANIFEST_KEY):
        return _of_artifact(Artifact(store), original, price, show)
    raise UsageError(f"{what}: nothing")


def _of_artifact(artifact: Artifact, original: str | None, price: float | None, show: Show) -> Made:
    tensors = summarise(artifact)
    if original is not None:
        check_matplotlib()
        checkpoint = open_checkpoint(original)
        with show(sum(t.nbytes for t in tensors if t.mse > 0), "compare") as progress:
            tensors = with_original_power(artifact, tensors, checkpoint, progress.advance)
    found = gather_artifact(artifact, tensors, Price(DEFAULT_PRICE if price is None else price))
    return Made("artifact", render("artifact", found))
