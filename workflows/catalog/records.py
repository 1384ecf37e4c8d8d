"""What is known about each model of a catalog, kept beside the artifacts: `.nwc-catalog/<name>/status.json`.

The driver writes it when a model begins, every minute while it runs, and when it ends. Nothing that an artifact needs is in
here: a lost record costs reading the weights once more, to find out that they are compressed already.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nwc_core.errors import NotFoundError
from nwc_core.store import Store

FOLDER = ".nwc-catalog"
STATUS, TIMELINE = "status.json", "timeline.json"
FORMAT = 1
HEARTBEAT_SECONDS = 30.0
# A driver that lives writes every HEARTBEAT_SECONDS; slow stores and clocks that differ get some minutes.
SILENT_SECONDS = 300.0
_READERS = 32

State = Literal["running", "failed", "done"]


class Status(BaseModel):
    """One model.

    Attributes:
        format: of this record.
        nwc: version of the package that wrote it.
        driver: host name and process of who wrote it.
        name: in the catalog.
        destination: of the artifact, relative to the catalog's root.
        state: as far as the driver could say.
        started, updated: seconds since 1970; when it began, and the driver's last sign of life.
        reason: why it failed.
        source: URI.
        versions: of every file of the source, see `inputs`; taken before it was read.
        asked: what else the artifact is made from, see `inputs`.
        source_nbytes: of the weight files.
        artifact_nbytes: of the whole artifact.
        weight_nbytes: those that hold weights.
        weights: elements of all tensors.
        seconds: that compressing took; of the run that made the artifact.
        tasks, tasks_resumed: of that run, and those of them that an earlier run had done.
        fingerprint: of the artifact.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: int = FORMAT
    nwc: str
    driver: str
    name: str
    destination: str
    state: State
    started: float
    updated: float
    reason: str | None = None
    source: str
    versions: dict[str, str] = {}
    asked: dict[str, str] = {}
    source_nbytes: int | None = None
    artifact_nbytes: int | None = None
    weight_nbytes: int | None = None
    weights: int | None = None
    seconds: float | None = None
    tasks: int | None = None
    tasks_resumed: int | None = None
    fingerprint: str | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """Over all bytes that hold weights; None before the end."""
        return None if self.weight_nbytes is None or not self.weights else 8 * self.weight_nbytes / self.weights

    @property
    def silent(self) -> bool:
        """Whether whoever ran it seems to be gone."""
        return self.state == "running" and time.time() - self.updated > SILENT_SECONDS

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1, exclude_none=True).encode() + b"\n"

    def changed(self, **changes: object) -> Status:
        """The same with other values, as of now."""
        return self.model_copy(update={"updated": time.time(), **changes})


def new_status(name: str, destination: str, source: str) -> Status:
    """Of a model that begins now."""
    now = time.time()
    return Status(
        nwc=version("nwc"),
        driver=f"{socket.gethostname()}:{os.getpid()}",
        name=name,
        destination=destination,
        state="running",
        started=now,
        updated=now,
        source=source,
    )


class Records:
    """The records below a catalog's root. Thread-safe."""

    def __init__(self, root: Store) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Of all models with a record, in order. One listing."""
        return sorted(names_among(info.key for info in self.root.list(f"{FOLDER}/")))

    def read(self, name: str) -> Status | None:
        """None if there is none, or one that another version of nwc wrote, or that is damaged."""
        try:
            return Status.model_validate_json(self.root.get(f"{FOLDER}/{name}/{STATUS}"))
        except (NotFoundError, ValidationError):
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, Status | None]:
        """By name, many at a time."""
        names = list(names)
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(names, pool.map(self.read, names), strict=True))

    def write(self, status: Status) -> None:
        self.root.put(f"{FOLDER}/{status.name}/{STATUS}", status.to_bytes())

    def read_timelines(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Timelines as they are stored, by name, many at a time; None where there is none."""
        names = list(names)
        with ThreadPoolExecutor(_READERS) as pool:
            return dict(zip(names, pool.map(self._timeline, names), strict=True))

    def _timeline(self, name: str) -> bytes | None:
        try:
            return self.root.get(f"{FOLDER}/{name}/{TIMELINE}")
        except NotFoundError:
            return None

    def write_timeline(self, name: str, data: bytes) -> None:
        self.root.put(f"{FOLDER}/{name}/{TIMELINE}", data)


def names_among(keys: Iterable[str]) -> Iterator[str]:
    """Names of the models whose status is among keys of a root."""
    before, after = f"{FOLDER}/", f"/{STATUS}"
    for key in keys:
        if key.startswith(before) and key.endswith(after):
            yield key[len(before) : -len(after)]


def one_line(error: object) -> str:
    """An error as the command line prints it."""
    return " ".join(str(error).split()) or type(error).__name__
