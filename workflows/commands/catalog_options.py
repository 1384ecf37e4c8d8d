"""What the commands of `nwc catalog` share: finding a catalog by its file or its place, and showing a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nwc_core.store import Store
    from nwc_workflows.catalog.members import Member
    from nwc_workflows.catalog.records import Status


def open_catalog(catalog: str, *, with_members: bool) -> tuple[Store, list[Member] | None, float | None]:
    """Root, models and price, of a file or a URI."""
    from nwc_core.store import open_store
    from nwc_workflows.catalog.file import is_catalog, read_catalog
    from nwc_workflows.catalog.members import find_members

    if not is_catalog(catalog):
        return open_store(catalog, "destination"), None, None
    read = read_catalog(catalog)
    members = find_members(read, catalog) if with_members else None
    return open_store(read.root, "destination"), members, read.price


def record_data(status: Status) -> dict[str, Any]:
    """A record as plain data."""
    return {
        "source": status.source,
        "destination": status.destination,
        "reason": status.reason,
        "source_bytes": status.source_nbytes,
        "artifact_bytes": status.artifact_nbytes,
        "bits_per_weight": status.bits_per_weight,
        "seconds": status.seconds,
        "tasks": status.tasks,
        "tasks_resumed": status.tasks_resumed,
        "started": status.started,
        "updated": status.updated,
        "driver": status.driver,
        "fingerprint": status.fingerprint,
    }
