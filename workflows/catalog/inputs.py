"""What an artifact is made from, told by versions instead of content: reading it costs a few requests, and no weights.

Where all of it is as it was, the artifact that was made is the one that would be made. Where a version differs, content may
still be the same: then the weights are read to find out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.writer import existing_manifest
from nwc_core.errors import FormatError, NotFoundError
from nwc_core.store import ObjectInfo, Store, open_store
from nwc_workflows.calibration.record import RECORD_KEY
from nwc_workflows.catalog.records import Status
from nwc_workflows.request import Request
from nwc_workflows.source_files import unread_reason

_READERS = 8


@dataclass(frozen=True)
class Inputs:
    """Of one model.

    Attributes:
        versions: of every file of the checkpoint, by path. Of files that are not read (pickles, hidden folders) the size.
        asked: everything else, by what it is: options, codec, versions of calibration and data.
    """

    versions: dict[str, str]
    asked: dict[str, str]

    def are_those_of(self, status: Status) -> bool:
        return (self.versions, self.asked) == (status.versions, status.asked)


def find_inputs(request: Request, codec_digest: str) -> Inputs:
    """Raises StoreError if something is not there or cannot be read."""
    options = {key: str(value) for key, value in request.options.job.items()}
    measuring = {key: str(value) for key, value in request.measuring.items() if value is not None}
    recovery = {
        key: str(value)
        for key, value in (("recover", request.recover), ("recover_steps", request.recover_steps))
        if value is not None
    }
    asked = {**options, **measuring, **recovery, "codec": codec_digest}
    if request.calibration is not None:
        asked["calibration"] = open_store(request.calibration, "source").version(RECORD_KEY)
    if request.base is not None:
        manifest = open_store(request.base).get(MANIFEST_KEY)
        asked["base"] = hashlib.sha256(manifest).hexdigest()
    for key, path in (("quality_data", request.quality_data), ("recover_data", request.recover_data)):
        if path is not None:
            asked[key] = _data_version(Path(path))
    return Inputs(_versions(request.source), asked)


def _versions(source: str) -> dict[str, str]:
    store = open_store(source, "source")
    listing = list(store.list())
    if not listing:  # one file, as `open_checkpoint` takes it
        parent, _, name = store.uri.rpartition("/")
        return {name: open_store(f"{parent}/", "source").version(name)}

    def version(info: ObjectInfo) -> str:
        hidden = any(part.startswith(".") for part in info.key.split("/")[:-1])
        return f"size {info.size}" if hidden or unread_reason(info.key) else store.version(info.key)

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip([info.key for info in listing], pool.map(version, listing), strict=True))


def _data_version(path: Path) -> str:
    """Sizes and times of all files at a local path."""

    def files() -> Iterator[Path]:
        yield from [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())

    return json.dumps([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files()])


def is_there(status: Status | None, inputs: Inputs, destination: Store) -> Manifest | None:
    """The artifact that a record speaks of, if that was made from these inputs and is there with all its objects.

    One listing of the destination, and its manifest.
    """
    if status is None or status.state != "done" or not inputs.are_those_of(status):
        return None
    try:
        manifest = existing_manifest(destination)
    except (FormatError, NotFoundError):
        return None
    if manifest is None or manifest.fingerprint != status.fingerprint:
        return None
    sizes = {info.key: info.size for info in destination.list()}
    complete = all(sizes.get(key) == size for key, size in object_sizes(manifest).items())
    return manifest if complete else None


def object_sizes(manifest: Manifest) -> dict[str, int]:
    """Bytes of every object of an artifact besides the manifest, by key."""
    refs = [manifest.codec, manifest.index, *manifest.payloads]
    return {
        **{ref.object: ref.size for ref in refs},
        **{file.object: file.size for file in manifest.files},
        **{made.object: made.size for made in manifest.derived},
    }
