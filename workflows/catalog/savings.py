"""What made a catalog smaller: copies that are stored once, differences to a base, and coding itself; from indexes alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nwc_core.artifact.index import BlockRow
from nwc_core.artifact.reader import Artifact
from nwc_core.dtypes import DTYPES
from nwc_core.encoded import EXACT_DELTA, WITH_BASE
from nwc_core.store import Store, open_store
from nwc_workflows.catalog.status import Summary

_READERS = 16
# Of a coded tensor: a copy is nothing else, and the shortest difference, a coded tensor in it, has these twice.
_HEADER_NBYTES, _DIMENSION_NBYTES = 4, 5
KINDS = ("copies", "differences", "alone")
KIND_TEXTS = {"copies": "as in a base or tensor before", "differences": "differences to a base", "alone": "coded alone"}


@dataclass(frozen=True)
class Part:
    """Of one kind: bytes before (of the elements) and after (of coded blocks), and how many blocks they are."""

    kind: str
    source_nbytes: int
    coded_nbytes: int
    blocks: int


def savings(stores: Sequence[Store]) -> list[Part]:
    """What became of the weights of all these artifacts, by kind: blocks that are those of a base, bit for bit or as good, or
    those of another tensor of the model; blocks coded as their difference to a base; blocks coded alone.

    Raises:
        NwcError: one of them cannot be opened.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        indexes = list(pool.map(lambda store: Artifact(store).index, stores))
    by_kind: dict[str, list[tuple[BlockRow, int]]] = {kind: [] for kind in KINDS}
    for index in indexes:
        for row in index:
            shared = index.copy_of(row) is not None
            by_kind["copies" if shared else _kind(row)].append((row, 0 if shared else row.length))
    return [_part(kind, rows) for kind, rows in by_kind.items()]


def savings_of(root: Store, summary: Summary) -> list[Part]:
    """The same of all models of a catalog that are done; `root` is the catalog's. Raises NwcError as `savings` does."""
    done = [model.record for model in summary.models if model.state == "done" and model.record]
    base = root.uri.rstrip("/")
    return savings([open_store(f"{base}/{record.destination}", "destination") for record in done])


def _kind(row: BlockRow) -> str:
    if row.coder == EXACT_DELTA and row.length <= _HEADER_NBYTES + _DIMENSION_NBYTES * len(row.shape):
        return "copies"
    return "differences" if row.coder in WITH_BASE else "alone"


def _part(kind: str, rows: Sequence[tuple[BlockRow, int]]) -> Part:
    source = sum(row.numel * DTYPES[row.dtype].itemsize for row, _ in rows)
    return Part(kind, source, sum(nbytes for _, nbytes in rows), len(rows))
