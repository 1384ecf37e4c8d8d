"""A bound on jobs and bytes in flight that several runs share, each in a thread of one driver.

Promises: the bounds hold over all runs together, also for jobs whose run was closed or never looks at them again; of
runs that want room the earliest one gets it, so a stream of later ones never starves it, and models of a catalog end
in order; no room stays empty while some run that is looking could use it.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nwc_core.errors import UsageError

# How late a run may notice jobs that another one started after it had begun to wait. Those that it knows wake it at once.
_POLL_SECONDS = 0.1


class Capacity:
    """Room for jobs and their bytes. Thread-safe; for one driver, not picklable.

    A job larger than `nbytes` has room when nothing else is in flight.

        capacity = cluster_capacity()
        for model in models:  # each then runs in a thread of its own
            run(model, capacity.place())

    Args:
        slots: most jobs in flight.
        nbytes: most bytes in flight, the sum of Job.nbytes.

    Raises:
        UsageError: one of them is less than 1.
    """

    def __init__(self, slots: int, nbytes: int) -> None:
        for name, value in (("slots", slots), ("nbytes", nbytes)):
            if value < 1:
                raise UsageError(f"capacity: found {name} {value}; wanted at least 1")
        self.slots, self.nbytes = slots, nbytes
        self._room = _Room(slots, nbytes)
        self._place: int | None = None

    def __repr__(self) -> str:
        return f"Capacity(slots={self.slots}, nbytes={self.nbytes})"

    def place(self) -> Capacity:
        """The same room for several runs that belong together, such as those of one model.

        All of them have the place in the order that is given now; without it a model's second run would come behind
        the first runs of the models after it.
        """
        view = copy.copy(self)
        view._place = next(self._room.numbers)
        return view

    def turn(self) -> Turn:
        """One run's place in the order: behind all that were given before, or the one of this view."""
        number = next(self._room.numbers)
        return Turn(self._room, (number if self._place is None else self._place, number))


class Turn:
    """What one run asks for room. Used by one thread."""

    def __init__(self, room: _Room, order: tuple[int, int]) -> None:
        self._room, self._order = room, order

    def start(self, nbytes: int, submit: Callable[[], Any]) -> Any | None:
        """Start a job if there is room and no earlier run wants it; if not, this run wants room from now on.

        Args:
            nbytes: of the job.
            submit: hands it to Ray and returns its reference.

        Returns:
            The reference, or None.
        """
        room = self._room
        with room.lock:
            if min(room.wanting, default=self._order) < self._order or not room.has(nbytes):
                room.wanting.add(self._order)
                return None
            room.wanting.discard(self._order)
            ref = submit()
            room.in_flight[ref] = nbytes
            return ref

    def rest(self) -> None:
        """Want nothing until the next `start`: a run that isn't looking must not keep room from others."""
        with self._room.lock:
            self._room.wanting.discard(self._order)

    def ended(self, refs: Iterable[Any]) -> None:
        """Jobs of any run have ended and take no room any more. Said twice, it counts once."""
        with self._room.lock:
            for ref in refs:
                self._room.in_flight.pop(ref, None)

    def wait(self) -> None:
        """Until some job of any run has ended, which frees its room; at most _POLL_SECONDS.

        The run of that job need not look: it may be busy with something else for long, or have been given up.
        """
        import ray

        with self._room.lock:
            refs = list(self._room.in_flight)
        if refs:
            self.ended(ray.wait(refs, num_returns=1, timeout=_POLL_SECONDS)[0])
        else:  # the room is an earlier run's, which is about to take it
            time.sleep(_POLL_SECONDS)


class _Room:
    """What all turns of a capacity share, under one lock."""

    def __init__(self, slots: int, nbytes: int) -> None:
        self.slots, self.nbytes = slots, nbytes
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        self.in_flight: dict[Any, int] = {}  # bytes of each job, by its Ray reference
        self.wanting: set[tuple[int, int]] = set()  # turns that were refused and wait

    def has(self, nbytes: int) -> bool:
        """Whether a job of this size has room."""
        fits = len(self.in_flight) < self.slots and sum(self.in_flight.values()) + nbytes <= self.nbytes
        return fits or not self.in_flight


@dataclass(frozen=True)
class Offer:
    """What the nodes of the connected cluster that are alive have, whoever uses it now.

    Attributes:
        cpus: of all nodes.
        nbytes: memory of all nodes with a CPU.
        largest: memory of the largest node with a CPU.
    """

    cpus: int
    nbytes: int
    largest: int


def cluster_offer() -> Offer:
    """Needs a connected Ray, see nwc_infra.cluster. Raises UsageError if the cluster has no CPU."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    memories = [int(node.get("memory", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if cpus < 1 or not memories:
        raise UsageError("the Ray cluster has no CPU that a job could run on")
    return Offer(cpus, sum(memories), max(memories))


def cluster_capacity(workers: int | None = None, nbytes: int | None = None) -> Capacity:
    """The room that the connected cluster offers; one slot per CPU.

    Args:
        workers: bound on the slots, if that is less.
        nbytes: bound on the bytes in flight, if that is less.

    Raises:
        UsageError: a bound is less than 1, or the cluster has no CPU.
    """
    offer = cluster_offer()
    return Capacity(
        offer.cpus if workers is None else min(workers, offer.cpus),
        offer.nbytes if nbytes is None else min(nbytes, offer.nbytes),
    )
