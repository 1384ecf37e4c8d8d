"""Artifacts that are made somewhere else first: complete but for their place, and copied byte for byte once they are wanted."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory

from nwc_core.artifact.objects import ObjectKind, ObjectRef, check_object
from nwc_core.artifact.writer import commit, put_object
from nwc_core.errors import UsageError
from nwc_core.store import Store, open_store
from nwc_workflows.carried import Carried, write_files
from nwc_workflows.compress import CompressResult
from nwc_workflows.plan import Plan
from nwc_workflows.progress import Progress
from nwc_workflows.recovery.recover import Recovered

Show = Callable[[float, str, str], AbstractContextManager[Progress]]  # (total, description, unit), as Output.progress


@dataclass(frozen=True)
class Made:
    """An artifact, where it is, and what recovery did to it, if there was one."""

    result: CompressResult
    store: Store
    recovered: Recovered | None = None


def check_reachable(scratch: str | None, address: str | None) -> None:
    """A temporary folder is of this machine alone. Raises UsageError if a cluster is to write there."""
    if address is not None and scratch is None:
        raise UsageError(
            "scratch: found none; wanted a place for unfinished artifacts that all machines of the cluster reach"
        )


@contextmanager
def scratch_place(uri: str | None) -> Iterator[str]:
    """A place of this run's own below a URI, or a temporary folder of this machine; emptied in the end."""
    if uri is None:
        with TemporaryDirectory(prefix="nwc-") as folder:
            yield folder
        return
    place = f"{uri.rstrip('/')}/nwc-{uuid.uuid4().hex}"
    try:
        yield place
    finally:
        clear(open_store(place, "destination"))


def clear(store: Store) -> None:
    """Delete all objects."""
    for info in list(store.list()):
        store.delete(info.key)


def publish(made: Made, plan: Plan, destination: Store) -> bool:
    """Copy an artifact to the destination and commit it there; False if somebody made the very same in the meantime."""
    manifest = made.result.manifest
    refs: list[tuple[ObjectKind, ObjectRef]] = [("codec", manifest.codec), ("index", manifest.index)]
    refs += [("payload", ref) for ref in manifest.payloads]
    for kind, ref in refs:
        data = made.store.get(ref.object)
        check_object(data, ref.size, ref.sha256, f"{made.store.uri}/{ref.object}")
        put_object(destination, kind, data)
    write_files(Carried(tuple(manifest.files), tuple(manifest.derived)), plan.checkpoint, destination)
    return commit(destination, manifest)
