"""How far a catalog is, from the store alone: its records, and one listing of what is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.store import Store
from nwc_workflows.catalog.members import Member
from nwc_workflows.catalog.records import Records, Status, names_among

GB = 1_000_000_000
State = Literal["done", "running", "stopped", "failed", "gone", "unreadable", "not begun"]
STATES: tuple[State, ...] = ("done", "running", "stopped", "failed", "gone", "unreadable", "not begun")
TROUBLED: tuple[State, ...] = ("stopped", "failed", "gone", "unreadable")


@dataclass(frozen=True)
class ModelStatus:
    """One model.

    Attributes:
        name: in the catalog.
        state: "stopped" if whoever ran it gives no sign of life; "gone" if its artifact was done and is not there;
            "unreadable" if its record is.
        record: None if there is none, or it is unreadable.
        nbytes: of the source, if known.
    """

    name: str
    state: State
    record: Status | None
    nbytes: int | None = None


@dataclass(frozen=True)
class Summary:
    """All models of a catalog, and totals over those that are done."""

    models: tuple[ModelStatus, ...]

    def count(self, state: State) -> int:
        return sum(model.state == state for model in self.models)

    def _done(self) -> list[Status]:
        return [model.record for model in self.models if model.state == "done" and model.record is not None]

    @property
    def source_nbytes(self) -> int:
        """Of what is done, before."""
        return sum(record.source_nbytes or 0 for record in self._done())

    @property
    def artifact_nbytes(self) -> int:
        """Of what is done, after; carried files and all."""
        return sum(record.artifact_nbytes or 0 for record in self._done())

    def saved_per_month(self, price: float) -> float:
        """Money, at a price per GB and month, once the sources of what is done are deleted."""
        return price * (self.source_nbytes - self.artifact_nbytes) / GB


def read_status(root: Store, members: Sequence[Member] | None = None) -> Summary:
    """Read it.

    Args:
        root: of the catalog.
        members: of its file: those without a record have not begun, and records of others do not count. None to take
            what there are records of.

    Raises:
        StoreError: the store cannot be read.
    """
    keys = {info.key for info in root.list()}
    recorded = set(names_among(keys))
    names = sorted(recorded) if members is None else [member.name for member in members]
    sizes = {} if members is None else {member.name: member.nbytes for member in members}
    found = Records(root).read_all(name for name in names if name in recorded)
    return Summary(tuple(_judged(name, name in recorded, found.get(name), keys, sizes.get(name)) for name in names))


def _judged(name: str, recorded: bool, record: Status | None, keys: Iterable[str], nbytes: int | None) -> ModelStatus:
    if record is None:
        return ModelStatus(name, "unreadable" if recorded else "not begun", None, nbytes)
    state: State = record.state
    if record.silent:
        state = "stopped"
    if state == "done" and f"{record.destination}/{MANIFEST_KEY}".lstrip("/") not in keys:
        state = "gone"
    return ModelStatus(name, state, record, record.source_nbytes or nbytes)
