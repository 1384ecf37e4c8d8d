"""A report of whatever there is at a place, found out by looking at it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import UsageError
from nwc_core.store import open_store
from nwc_workflows.bench.plot_style import check_matplotlib
from nwc_workflows.catalog.records import FOLDER
from nwc_workflows.catalog.status import read_status
from nwc_workflows.checkpoint_writer import exists as is_there
from nwc_workflows.commands.catalog_options import open_catalog
from nwc_workflows.inspect import summarise, with_power
from nwc_workflows.original import with_original_power
from nwc_workflows.progress import Progress
from nwc_workflows.report.artifact import gather_artifact
from nwc_workflows.report.bench import gather_bench
from nwc_workflows.report.bench_files import WANTED, read_bench
from nwc_workflows.report.catalog import gather_catalog
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


def make_report(
    what: str, *, original: str | None = None, relative: bool = False, price: float | None = None, show: Show
) -> Made:
    """Find out what it is, read what there is to say, and say it.

    Args:
        what: path or URI of an artifact, of a catalog's results, or of results of a benchmark; or a catalog's file.
        original: of an artifact: path or URI of the checkpoint that it was made from; None to leave out what that tells.
        relative: of an artifact without its original: whether it is decoded, so that errors can be relative to its own weights.
        price: of a GB and month, in dollars; None for that of a catalog's file, or the usual one.
        show: shows the progress where weights are read.

    Raises:
        UsageError: it is none of these; or `original` is given for another thing than an artifact; or there are plots, and
            no matplotlib.
        NwcError: it cannot be read, or is damaged; or the original is another one.
    """
    if "://" not in what and Path(what).is_file():
        is_yaml = Path(what).suffix in (".yaml", ".yml")
        return _of_catalog(what, original, price) if is_yaml else _of_bench(Path(what), original)
    store = open_store(what, "destination")
    if is_there(store, MANIFEST_KEY):
        return _of_artifact(Artifact(store), original, relative, price, show)
    if next(iter(store.list(f"{FOLDER}/")), None) is not None:
        return _of_catalog(what, original, price)
    if "://" not in what and Path(what).is_dir():
        return _of_bench(Path(what), original)
    raise UsageError(f"{what}: found nothing; wanted {WANTED}")


def _of_bench(place: Path, original: str | None) -> Made:
    _check_no(original, f"the benchmark {place}")
    check_matplotlib()
    found = gather_bench(place.resolve().as_uri(), read_bench(place))
    return Made("benchmark", render("bench", found))


def _of_catalog(what: str, original: str | None, price: float | None) -> Made:
    _check_no(original, f"the catalog {what}")
    root, members, of_file = open_catalog(what, with_members=True)
    at = Price() if of_file is None else Price(of_file, "")
    at = at if price is None else Price(price)
    return Made("catalog", render("catalog", gather_catalog(root, read_status(root, members), at)))


def _of_artifact(artifact: Artifact, original: str | None, relative: bool, price: float | None, show: Show) -> Made:
    tensors = summarise(artifact)
    if original is not None:
        check_matplotlib()
        checkpoint = open_checkpoint(original)
        with show(sum(t.nbytes for t in tensors if t.mse > 0), "compare") as progress:
            tensors = with_original_power(artifact, tensors, checkpoint, progress.advance)
    elif relative:
        check_matplotlib()
        with show(sum(t.nbytes for t in tensors if t.mse > 0), "decode") as progress:
            tensors = with_power(artifact, tensors, progress.advance)
    found = gather_artifact(artifact, tensors, Price(DEFAULT_PRICE if price is None else price))
    return Made("artifact", render("artifact", found))


def _check_no(original: str | None, what: str) -> None:
    if original is not None:
        raise UsageError(f"--original: found it with {what}; wanted it with an artifact alone")
