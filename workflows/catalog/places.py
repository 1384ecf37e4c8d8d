"""Whether the places of a catalog keep out of each other's way, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nwc_core.errors import UsageError

if TYPE_CHECKING:
    from nwc_workflows.catalog.members import Member

_LOCAL = "file://"


def real(location: str) -> str:
    """A location as it compares equal: local ones absolute and without links, none with a slash at the end."""
    if "://" in location and not location.startswith(_LOCAL):
        scheme, _, path = location.partition("://")
        return f"{scheme}://{path.rstrip('/')}"
    return os.path.realpath(location.removeprefix(_LOCAL))


def inside(location: str, folder: str) -> bool:
    """Whether a location is a folder, or below it; both as `real` gives them."""
    return f"{location}/".startswith(f"{folder.rstrip('/')}/")


def check_places(members: Sequence[Member], root: str, where: str) -> None:
    """Names and destinations are unique, and no artifact, record or checkpoint lies in another.

    Raises:
        UsageError: names the entries.
    """
    by_name: dict[str, Member] = {}
    for member in members:
        other = by_name.setdefault(member.name, member)
        if other is not member:
            raise UsageError(
                f"{where}: models[{member.entry}]: found the name {member.name!r} for {member.source} and, in "
                f"models[{other.entry}], for {other.source}; wanted every name once: give one of them another `name`"
            )
    results = real(root)
    sources = {real(member.source): member for member in members}
    destinations = {real(member.destination): member for member in members}
    for source, member in sources.items():
        if inside(source, results):
            raise UsageError(
                f"{where}: models[{member.entry}]: found the source {member.source} among the results, below {root}; "
                "wanted a `destination` elsewhere"
            )
    for destination, member in destinations.items():
        for above in _with_folders_above(destination):
            if above in sources:
                other = sources[above]
                raise UsageError(
                    f"{where}: destination: found {member.destination} inside the source {other.source} "
                    f"(models[{other.entry}]); wanted a place outside of all sources"
                )
            if above in destinations and above != destination:
                other = destinations[above]
                raise UsageError(
                    f"{where}: models[{member.entry}]: found its destination {member.destination} inside that of "
                    f"{other.name!r} (models[{other.entry}]); wanted them apart: give one of them another `name`"
                )


def _with_folders_above(location: str) -> list[str]:
    scheme, found, path = location.partition("://")
    start = f"{scheme}://" if found else ""
    parts = (path if found else location).split("/")
    return [start + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]
