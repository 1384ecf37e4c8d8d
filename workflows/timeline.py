"""What a run spent its time on: a span for each task, and how long the task read, coded and wrote."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Stage = Literal["read", "code", "write"]
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

_watch: ContextVar[dict[Stage, float] | None] = ContextVar("_watch", default=None)


@dataclass(frozen=True)
class TaskSpan:
    """One task on one worker.

    Attributes:
        key: of the task; "measure" and a colon come first where only a rate curve was measured.
        node: host name of the machine.
        pid: of the worker process.
        started: seconds since 1970.
        read_seconds, code_seconds, write_seconds: in this order, again and again; what else the task did is not in them.
        seconds: from start to end.
        nbytes: of the source.
        peak_memory: the most bytes that the worker process has held so far.
        resumed: an earlier run did it: this one found it done, and the span is that of the earlier.
    """

    key: str
    node: str
    pid: int
    started: float
    read_seconds: float
    code_seconds: float
    write_seconds: float
    seconds: float
    nbytes: int
    peak_memory: int
    resumed: bool = False


@contextmanager
def stage(name: Stage) -> Iterator[None]:
    """Time spent here counts as this stage of the task that is recorded, if one is."""
    started = time.perf_counter()
    try:
        yield
    finally:
        watch = _watch.get()
        if watch is not None:
            watch[name] = watch.get(name, 0.0) + time.perf_counter() - started


class Recording:
    """The span of a task, once `recorded` has ended."""

    span: TaskSpan


@contextmanager
def recorded(key: str, nbytes: int) -> Iterator[Recording]:
    """Record the task that runs inside."""
    recording, watch = Recording(), dict[Stage, float]()
    token = _watch.set(watch)
    started, clock = time.time(), time.perf_counter()
    try:
        yield recording
    finally:
        _watch.reset(token)
    recording.span = TaskSpan(
        key=key,
        node=socket.gethostname(),
        pid=os.getpid(),
        started=started,
        read_seconds=watch.get("read", 0.0),
        code_seconds=watch.get("code", 0.0),
        write_seconds=watch.get("write", 0.0),
        seconds=time.perf_counter() - clock,
        nbytes=nbytes,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
    )
