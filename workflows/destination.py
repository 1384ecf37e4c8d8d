"""What may be written where: an artifact never lies inside its source, and one that is there is never touched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress

from nwc_core.artifact.index import read_index
from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import check_object
from nwc_core.errors import AlreadyExistsError, IntegrityError, NotFoundError, StoreError, UsageError
from nwc_core.store import Store
from nwc_workflows.calibration.record import RECORD_KEY
from nwc_workflows.carried import Carried
from nwc_workflows.plan import Plan
from nwc_workflows.recovery.rewrite import RECOVERED, tuned_fingerprint
from nwc_workflows.sources import Checkpoint, read_bytes

_LOCAL = "file://"


def check_apart(plan: Plan, destination: Store) -> None:
    """An artifact inside the folder of its source would be part of that checkpoint the next time. Raises UsageError."""
    source, target = _real(plan.source_uri), _real(destination.uri)
    if f"{target}/".startswith(f"{source}/") or target == _real(plan.checkpoint.store.uri):
        raise UsageError(f"destination: found {target}, inside the source {source}; wanted a folder outside of it")
    check_holds_no(RECORD_KEY, "a calibration", destination)


def check_holds_no(key: str, what: str, destination: Store) -> None:
    """Artifacts and calibrations in one place would be nobody's to delete. Raises AlreadyExistsError if `key` is there."""
    with suppress(NotFoundError):
        destination.size(key)
        raise AlreadyExistsError(
            f"{destination.uri}/{key}", f"the destination holds {what}; nothing was changed; choose another destination"
        )


def _real(uri: str) -> str:
    """A location without links and a slash at the end, so that two names of one place compare equal."""
    path = uri.removeprefix(_LOCAL)
    return os.path.realpath(path) if path != uri else uri.rstrip("/")


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Prevents a mixture of two checkpoints, where a weight file was replaced after its header had been read."""
    for file in checkpoint.weight_files:
        if checkpoint.store.version(file.path) != file.version:
            raise StoreError(
                f"{checkpoint.store.uri}/{file.path}", "was replaced while it was being read; nothing was committed"
            )


def check_same(
    plan: Plan, carried: Carried, existing: Manifest, destination: Store, on_progress: Callable[[int], None]
) -> None:
    """Whether the artifact that is there is the one that this run would make.

    Source bytes are hashed for it, which costs a fraction of coding them: headers alone do not tell fine-tunes apart.

    Raises:
        AlreadyExistsError: it is not.
        IntegrityError: it is, but an object of it is gone or cut off.
    """
    changed = [
        f"{key}: there {existing.job.get(key)}, here {plan.job.get(key)}"
        for key in sorted({*existing.job, *plan.job})
        if existing.job.get(key) != plan.job.get(key)
    ]
    digests = []
    for block in [] if changed else plan.blocks:
        source = read_bytes(plan.checkpoint, block.tensor, block.start, block.stop)
        digests.append(hashlib.sha256(source).digest())
        on_progress(len(source))
    if changed or existing.fingerprint != _fingerprint(existing, plan.fingerprint(digests, carried), destination):
        reason = "; ".join(changed) or "same options, other weights or files"
        raise AlreadyExistsError(
            f"{destination.uri}/{MANIFEST_KEY}",
            f"the destination holds a different artifact ({reason}); nothing was changed; choose another destination",
        )
    sizes = {ref.object: ref.size for ref in (existing.codec, existing.index, *existing.payloads)}
    sizes |= {file.object: file.size for file in existing.files} | {made.object: made.size for made in existing.derived}
    for key, size in sizes.items():
        try:
            found = f"{destination.size(key)} bytes"
        except NotFoundError:
            found = "nothing"
        if found != f"{size} bytes":
            wanted = f"{size} bytes; this very artifact was here but is damaged: delete it and compress again"
            raise IntegrityError(f"{destination.uri}/{key}", found, wanted)


def _fingerprint(existing: Manifest, untuned: str, destination: Store) -> str:
    """What the fingerprint must be, given that of the plan: no plan tells what recovery found in the time it was given."""
    if RECOVERED not in existing.job:
        return untuned
    where = f"{destination.uri}/{existing.index.object}"
    data = destination.get(existing.index.object)
    check_object(data, existing.index.size, existing.index.sha256, where)
    return tuned_fingerprint(untuned, read_index(data, existing, where))
