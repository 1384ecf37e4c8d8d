"""What killed and superseded runs left behind, and what of it may go: nothing that an artifact needs, nothing that is new.

Only keys that nwc writes count: by the pattern of their last part. A place is a folder with such keys. Where manifest.json
is somebody else's, damaged, or of a newer nwc, nobody can say what is needed: all that is there, and below it, stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.errors import FormatError, NotFoundError
from nwc_core.store import ObjectInfo, Store, Upload
from nwc_core.strict_json import parse_json
from nwc_infra.stores.local_listing import TEMPORARY_PREFIX
from nwc_workflows.catalog.inputs import object_sizes
from nwc_workflows.parts import PART_PREFIX
from nwc_workflows.resume import UNFINISHED_KEY

_HEX = "[0-9a-f]{32}"
# What a commit turns into an artifact, and what it deletes.
_OBJECT = re.compile(rf"(payload|codec)-{_HEX}\.safetensors|index-{_HEX}\.parquet")
_PROGRESS = re.compile(rf"{re.escape(PART_PREFIX)}{_HEX}\.json|{re.escape(UNFINISHED_KEY)}")
_UNFINISHED_FIELDS = {"nwc", "job", "source", "versions"}
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}{_HEX}")


@dataclass(frozen=True)
class Rubbish:
    """What one place holds that nobody needs.

    Attributes:
        place: key of the folder; "" for the root.
        objects: nobody needs; in key order.
        uploads: that nobody will complete.
        committed: whether an artifact is there.
    """

    place: str
    objects: tuple[ObjectInfo, ...]
    uploads: tuple[Upload, ...]
    committed: bool

    @property
    def nbytes(self) -> int:
        """Of the objects; what an upload takes, no store says."""
        return sum(info.size for info in self.objects)


@dataclass(frozen=True)
class Kept:
    """A place that is left alone, and why."""

    place: str
    reason: str


def is_ours(key: str) -> bool:
    """Whether a key has the name of an object that a run may leave behind."""
    name = key.rpartition("/")[2]
    return bool(_OBJECT.fullmatch(name) or _PROGRESS.fullmatch(name))


def is_our_upload(key: str) -> bool:
    name = key.rpartition("/")[2]
    return bool(_OBJECT.fullmatch(name) or _TEMPORARY.fullmatch(name))


def find_rubbish(store: Store, before: float, place: str | None = None) -> tuple[list[Rubbish], list[Kept]]:
    """Look.

    Args:
        store: everything below its root is looked at; one listing, and every manifest.
        before: seconds since 1970: a place where anything was written since is left alone.
        place: only this folder.

    Returns:
        By place, what may go; and places that were left alone although they have something.

    Raises:
        StoreError: the store cannot be read.
    """
    prefix = f"{place}/" if place else ""
    listing = {info.key: info for info in store.list(prefix)}
    uploads = [upload for upload in store.uploads(prefix) if is_our_upload(upload.key)]
    manifests = _manifests(store, listing, place)
    needed = set(_needed(manifests))
    objects: dict[str, list[ObjectInfo]] = defaultdict(list)
    for key, info in listing.items():
        if is_ours(key) and key not in needed:
            objects[_folder(key)].append(info)
    begun: dict[str, list[Upload]] = defaultdict(list)
    for upload in uploads:
        begun[_folder(upload.key)].append(upload)
    places = {*objects, *begun}
    newest = _newest(listing.values(), uploads, places)
    rubbish, kept = [], []
    for folder in sorted(places if place is None else places & {place}):
        reason = _reason(folder, manifests, newest[folder], before)
        if reason:
            kept.append(Kept(folder, reason))
            continue
        committed = isinstance(manifests.get(folder), Manifest)
        ours = _certain(store, folder, objects[folder], committed)
        if ours or begun[folder]:
            rubbish.append(Rubbish(folder, tuple(ours), tuple(begun[folder]), committed))
    return rubbish, kept


def _certain(store: Store, folder: str, objects: list[ObjectInfo], committed: bool) -> list[ObjectInfo]:
    """Those that a run wrote for certain: `unfinished.json` is a name that others may use, and no run is without a codec."""
    names = {info.key: info.key.rpartition("/")[2] for info in objects}
    objects = [info for info in objects if names[info.key] != UNFINISHED_KEY or _is_unfinished(store, info.key)]
    known = committed or any(
        names[info.key] == UNFINISHED_KEY or names[info.key].startswith("codec-") for info in objects
    )
    return objects if known else []


def _is_unfinished(store: Store, key: str) -> bool:
    try:
        return set(parse_json(store.get(key), key)) >= _UNFINISHED_FIELDS
    except (FormatError, NotFoundError, TypeError):
        return False


def _reason(folder: str, manifests: Mapping[str, Manifest | None], newest: float, before: float) -> str | None:
    for above in (folder, *_above(folder)):
        if above in manifests and manifests[above] is None:
            return f"{f'{above}/' if above else ''}{MANIFEST_KEY} is not one that this nwc can read"
    return "something was written there lately" if newest >= before else None


def _manifests(store: Store, listing: Iterable[str], place: str | None) -> dict[str, Manifest | None]:
    """By folder, also of those above a place. None for one that cannot be understood."""
    keys = [key for key in listing if key.rpartition("/")[2] == MANIFEST_KEY]
    found: dict[str, Manifest | None] = {}
    for folder in [*map(_folder, keys), *(_above(place) if place else ())]:
        key = f"{folder}/{MANIFEST_KEY}" if folder else MANIFEST_KEY
        try:
            found[folder] = Manifest.from_bytes(store.get(key))
        except FormatError:
            found[folder] = None
        except NotFoundError:
            if key in keys:
                found[folder] = None  # listed, and gone by now: no time to judge
    return found


def _needed(manifests: Mapping[str, Manifest | None]) -> Iterator[str]:
    """Keys that artifacts name."""
    for folder, manifest in manifests.items():
        if manifest is not None:
            yield from (f"{folder}/{key}" if folder else key for key in object_sizes(manifest))


def _newest(infos: Iterable[ObjectInfo], uploads: Iterable[Upload], places: set[str]) -> dict[str, float]:
    """When something was last written at each place or below it; a store that knows no times says: now."""
    newest = dict.fromkeys(places, 0.0)
    times = [(info.key, info.modified or float("inf")) for info in infos]
    times += [(upload.key, upload.started or float("inf")) for upload in uploads]
    for key, modified in times:
        for folder in _above(key):
            if folder in newest:
                newest[folder] = max(newest[folder], modified)
    return newest


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


def _above(key: str) -> Iterator[str]:
    """All folders that a key lies in, the root, "", last."""
    while key:
        key = _folder(key)
        yield key
