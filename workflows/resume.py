"""A run that was stopped and given again goes on where it was; one that would make something else does not mix with it.

Until the commit the destination holds `unfinished.json`, which says what the run makes and of what, and the parts of finished
tasks (see `nwc_workflows.parts`). After the commit they are deleted: a finished artifact shows no trace of how it came about.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, ValidationError

from nwc_core.artifact.manifest import JobValue
from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import Store
from nwc_workflows.parts import PART_PREFIX
from nwc_workflows.plan import Plan

UNFINISHED_KEY = "unfinished.json"
FORMAT = 1
_THREADS = 16  # for requests that wait for the store, not for this machine
_SHOWN = 5  # differences that an error lists


class Unfinished(BaseModel):
    """What a run makes, of what.

    Attributes:
        format: of this record and of parts.
        nwc: version of the package: another may code otherwise.
        job: what determines the artifact besides its source.
        source: URI.
        versions: of the weight files by path, see `Store.version`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int = FORMAT
    nwc: str
    job: dict[str, JobValue]
    source: str
    versions: dict[str, str]

    @classmethod
    def of(cls, plan: Plan) -> Unfinished:
        files = plan.checkpoint.weight_files
        return cls(
            nwc=version("nwc"),
            job=plan.job,
            source=plan.source_uri,
            versions={file.path: file.version for file in files},
        )

    def to_bytes(self) -> bytes:
        return json.dumps(self.model_dump(), sort_keys=True, indent=1).encode()

    def differences(self, other: Unfinished) -> list[str]:
        """What another has otherwise, in words: `self` is what is there."""
        there, here = self._flat(), other._flat()
        names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        return [f"{name}: there {there.get(name)}, here {here.get(name)}" for name in names]

    def _flat(self) -> dict[str, object]:
        job = {key: self.job[key] for key in sorted(self.job)}
        files = {f"version of {path}": found for path, found in self.versions.items()}
        return {**job, "source": self.source, **files, "nwc": self.nwc, "format": self.format}


@dataclass(frozen=True)
class Begun:
    """A run that may write to its destination.

    Attributes:
        run: digest (hex) of what it makes.
        parts: keys of what earlier runs of the same left.
    """

    run: str
    parts: frozenset[str]


def begin(plan: Plan, destination: Store) -> Begun:
    """Claim a destination for a plan, or find the claim of an earlier run of the same.

    Raises:
        AlreadyExistsError: a run that makes something else was begun there and not finished.
    """
    mine = Unfinished.of(plan)
    begun = Begun(hashlib.sha256(mine.to_bytes()).hexdigest(), frozenset())
    found = _claim(destination, mine.to_bytes())
    if found is None:
        return begun
    if found != mine.to_bytes():
        raise AlreadyExistsError(
            f"{destination.uri}/{UNFINISHED_KEY}",
            f"an unfinished run of something else is there ({_difference(found, mine)}); nothing was changed; give its "
            f"command again to finish it, clear it away with nwc catalog gc --delete, or choose another destination",
        )
    destination.put(UNFINISHED_KEY, found)  # anew: garbage is not collected where something was written lately
    return Begun(begun.run, frozenset(info.key for info in destination.list(PART_PREFIX)))


def _claim(destination: Store, claim: bytes) -> bytes | None:
    """The claim that was there before this one, if any."""
    with suppress(AlreadyExistsError):
        destination.create(UNFINISHED_KEY, claim)
        return None
    with suppress(NotFoundError):
        return destination.get(UNFINISHED_KEY)
    return None  # whoever had made it has just committed: the commit will tell


def _difference(found: bytes, mine: Unfinished) -> str:
    try:
        differences = Unfinished.model_validate_json(found).differences(mine)
    except ValidationError:
        return "its record is damaged, or of another version of nwc"
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return "; ".join(differences[:_SHOWN]) + more


def clear(destination: Store) -> None:
    """Delete what was kept for a run to go on: its artifact is committed. What cannot be deleted does no harm."""
    with suppress(StoreError), ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(destination.delete, [info.key for info in destination.list(PART_PREFIX)]))
        destination.delete(UNFINISHED_KEY)  # last: as long as it is there, something may be left


def clear_if_begun(destination: Store) -> None:
    """The same for an artifact that was found finished, at the cost of one request if there is nothing to do."""
    with suppress(NotFoundError):
        destination.size(UNFINISHED_KEY)
        clear(destination)
