"""`nwc catalog gc`: what may go is found first, looked at once more right before it goes, and deleted place by place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.errors import NwcError, UsageError
from nwc_core.store import ObjectInfo, Store, Upload, open_store
from nwc_workflows.catalog.inputs import object_sizes
from nwc_workflows.catalog.records import FOLDER, SILENT_SECONDS, Records, names_among
from nwc_workflows.catalog.rubbish import Kept, Rubbish, find_rubbish
from nwc_workflows.resume import UNFINISHED_KEY

DAY = 86400.0
_THREADS = 16
_BATCH = 500  # objects deleted after each look: a listing page costs as much as twelve deletions


@dataclass(frozen=True)
class Found:
    """What was found: places with rubbish, and places that were left alone."""

    rubbish: tuple[Rubbish, ...]
    kept: tuple[Kept, ...]

    @property
    def nbytes(self) -> int:
        return sum(place.nbytes for place in self.rubbish)

    @property
    def objects(self) -> int:
        return sum(len(place.objects) for place in self.rubbish)

    @property
    def uploads(self) -> int:
        return sum(len(place.uploads) for place in self.rubbish)


def find(store: Store, older_than: float = DAY) -> Found:
    """What may go below a store's root.

    Args:
        store: of an artifact's own place, or of anything above.
        older_than: seconds; a place where something was written since, or whose model gave a sign of life, is left alone.

    Raises:
        UsageError: the root is a folder inside an artifact.
        StoreError: the store cannot be read.
    """
    _check_not_inside(store)
    before = time.time() - older_than
    rubbish, kept = find_rubbish(store, before)
    alive = _alive(store, before)
    return Found(
        tuple(place for place in rubbish if place.place not in alive),
        (*kept, *(Kept(place.place, "its model is being compressed") for place in rubbish if place.place in alive)),
    )


def delete(store: Store, found: Found, older_than: float, on_deleted: Callable[[int], None]) -> tuple[Rubbish, ...]:
    """Delete what was found, where that is still so.

    Args:
        store, older_than: as for `find`.
        found: by it.
        on_deleted: called with the bytes of every object that is gone.

    Returns:
        What was deleted.

    Raises:
        StoreError: the store refused; what was deleted before is gone.
    """
    deleted = [_delete_at(store, place, older_than, on_deleted) for place in found.rubbish]
    return tuple(place for place in deleted if place.objects or place.uploads)


def _delete_at(store: Store, shown: Rubbish, older_than: float, on_deleted: Callable[[int], None]) -> Rubbish:
    """Some objects at a time, and before each look again: a run may have begun at this place, or ended."""
    uploads: tuple[Upload, ...] = ()
    objects: list[ObjectInfo] = []
    order = sorted(shown.objects, key=_last_to_go)
    for first in range(0, max(len(order), 1), _BATCH):
        batch = order[first : first + _BATCH]
        again, _ = find_rubbish(store, time.time() - older_than, shown.place)
        still = next((place for place in again if place.place == shown.place), None)
        if still is None or still.committed != shown.committed or (first == 0 and shown.place in _alive(store)):
            break
        batch = [info for info in batch if info in still.objects]
        with ThreadPoolExecutor(_THREADS) as pool:
            if first == 0:
                uploads = tuple(upload for upload in shown.uploads if upload in still.uploads)
                list(pool.map(store.abort, uploads))
            for info, _ in zip(batch, pool.map(store.delete, [info.key for info in batch]), strict=True):
                on_deleted(info.size)
        objects += batch
    return Rubbish(shown.place, tuple(objects), uploads, shown.committed)


def _last_to_go(info: ObjectInfo) -> tuple[bool, str]:
    """By what a place is known as ours goes last, so that a deletion that was stopped can be given again."""
    name = info.key.rpartition("/")[2]
    return name == UNFINISHED_KEY or name.startswith("codec-"), info.key


def _alive(store: Store, before: float = math.inf) -> set[str]:
    """Places of models that are being compressed, as their records say; whatever is asked for, a living run is left alone."""
    since = min(before, time.time() - SILENT_SECONDS)
    names = names_among(info.key for info in store.list(f"{FOLDER}/") if (info.modified or since) >= since)
    records = Records(store).read_all(names).values()
    return {record.destination for record in records if record is not None and record.state == "running"}


def _check_not_inside(store: Store) -> None:
    """A folder inside an artifact may hold files of the checkpoint with any names: only the manifest above tells."""
    parts = store.uri.split("/")
    least = 4 if parts[0] == "file:" else 3  # file:///folder, s3://bucket
    for count in range(len(parts) - 1, least - 1, -1):
        uri = "/".join(parts[:count])
        if _names_below(open_store(uri, "destination"), "/".join(parts[count:])):
            raise UsageError(f"{store.uri}: found a folder inside the artifact {uri}; wanted that, or a place above it")


def _names_below(store: Store, folder: str) -> bool:
    try:
        manifest = Manifest.from_bytes(store.get(MANIFEST_KEY))
    except NwcError:  # nothing there, not ours, or not allowed to look
        return False
    return any(key.startswith(f"{folder}/") for key in object_sizes(manifest))
