"""One model of a catalog: done already, compressed now, or failed with a reason; and its record, in all cases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from nwc_core.codec import Codec
from nwc_core.errors import ClusterLostError, NwcError
from nwc_core.store import Store, open_store
from nwc_infra.capacity import Capacity
from nwc_workflows.catalog.heartbeat import Heartbeat
from nwc_workflows.catalog.inputs import find_inputs, is_there
from nwc_workflows.catalog.members import Member
from nwc_workflows.catalog.places import real
from nwc_workflows.catalog.records import Records, Status, new_status, one_line
from nwc_workflows.catalog.shares import Share, Stopped
from nwc_workflows.catalog.trace import chrome_trace
from nwc_workflows.request import Done, prepare

INTERRUPTED = "interrupted; the same command goes on from here"


@dataclass(frozen=True)
class Result:
    """What became of a model: `status` is its record."""

    member: Member
    outcome: Literal["done", "done already", "failed"]
    status: Status


def done_already(member: Member, record: Status | None, codec: Codec) -> Result | None:
    """A model whose record says that it is done, if its artifact is there and nothing that it was made from has changed."""
    if record is None or record.state != "done":
        return None
    try:
        inputs = find_inputs(member.request, codec.digest)
        there = is_there(record, inputs, open_store(member.destination, "destination"))
    except NwcError:  # its turn will tell
        return None
    return Result(member, "done already", record) if there else None


@dataclass(frozen=True)
class Shop:
    """What all models of a run share.

    Attributes:
        root: of the catalog.
        codec: of all.
        capacity: of the cluster.
        workers: of the cluster.
        records, heartbeat: below the root.
        measuring: held by a model that runs itself in this process, which has memory for one.
    """

    root: Store
    codec: Codec
    capacity: Capacity
    workers: int
    records: Records
    heartbeat: Heartbeat
    measuring: Lock = field(default_factory=Lock)

    def treat(
        self, member: Member, earlier: Status | None, share: Share, wait: Callable[[], None] = lambda: None
    ) -> Result:
        """Bring one model to its end.

        Args:
            member: the model.
            earlier: its record, from before.
            share: of the progress.
            wait: until what the model needs is there.

        Raises:
            StoreError: the record cannot be written: nothing else below the root could be, either.
            ClusterLostError: Ray is gone.
            Stopped: the run is to end.
        """
        destination = open_store(member.destination, "destination")
        status = self._new_status(member)
        self.heartbeat.begin(status)
        try:
            wait()
            inputs = find_inputs(member.request, self.codec.digest)  # before anything is read: what follows is no older
            status = status.changed(versions=inputs.versions, asked=inputs.asked)
            done = self._compress(member, destination, share)
        except (ClusterLostError, Stopped) as error:
            stopped = INTERRUPTED if isinstance(error, Stopped) else one_line(error)
            self.heartbeat.end(status.changed(state="failed", reason=stopped))
            raise
        except NwcError as error:
            return self._failed(member, status, one_line(error))
        except Exception as error:  # a fault of nwc, met by this model; others may do better
            return self._failed(member, status, f"{type(error).__name__}: {one_line(error)}")
        return self._finished(member, status, done, earlier)

    def _new_status(self, member: Member) -> Status:
        relative = real(member.destination).removeprefix(real(self.root.uri)).strip("/")
        source = open_store(member.source, "source").uri
        return new_status(member.name, relative, source).changed(source_nbytes=member.nbytes or None)

    def _compress(self, member: Member, destination: Store, share: Share) -> Done:
        alone: AbstractContextManager[Any] = self.measuring if member.request.runs_model else nullcontext()
        with alone:
            prepared = prepare(member.request, self.codec)
            return prepared.run(destination, show=share.show, workers=self.workers, capacity=self.capacity.place())

    def _failed(self, member: Member, status: Status, reason: str) -> Result:
        failed = status.changed(state="failed", reason=reason)
        self.heartbeat.end(failed)
        return Result(member, "failed", failed)

    def _finished(self, member: Member, status: Status, finished: Done, earlier: Status | None) -> Result:
        done = finished.compressed
        figures = {"seconds": done.seconds, "tasks": len(done.timeline), "tasks_resumed": _resumed(done.timeline)}
        if not done.created and earlier is not None and earlier.fingerprint == done.manifest.fingerprint:
            # What was there keeps the figures of the run that made it.
            figures = {name: getattr(earlier, name) for name in figures}
        status = status.changed(
            state="done",
            source_nbytes=done.source_nbytes,
            artifact_nbytes=done.weight_nbytes + done.carried_nbytes,
            weight_nbytes=done.weight_nbytes,
            weights=done.manifest.counts.weights,
            fingerprint=done.manifest.fingerprint,
            **figures,
        )
        if done.timeline:
            self.records.write_timeline(member.name, chrome_trace(done.timeline))
        self.heartbeat.end(status)
        return Result(member, "done" if done.created else "done already", status)


def _resumed(timeline: tuple[Any, ...]) -> int:
    return sum(span.resumed for span in timeline)
