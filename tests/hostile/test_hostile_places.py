"""Names and links that lead elsewhere: nothing outside of the folder is read or written, whoever vouches for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from artifact_samples import MemoryStore
from hostile_sample import CARRIED, SHARD, Objects, intact, manifest_of

import nwc_core as nwc
from nwc_core.artifact.manifest import MANIFEST_KEY, CarriedFile, Manifest, WeightFile
from nwc_core.artifact.reader import Artifact
from nwc_core.errors import FormatError, NotFoundError, NwcError, StoreError
from nwc_infra.stores.local import LocalStore
from nwc_workflows.decompress import decompress
from nwc_workflows.verify import verify

# From the destination, two folders below the test's own.
TRAVERSALS = ("../evil", "../../evil", "/{outside}/evil", "notes/../../evil", "..", "a/./../../evil", "..\\evil")


def stored(folder: Path, objects: Objects) -> Path:
    for key, data in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def everything(folder: Path) -> dict[str, bytes | str]:
    """All files below a folder; where links lead instead of what is there."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def forged(path: str, which: str) -> Manifest:
    """A manifest with that path, made without any check."""
    manifest = manifest_of(intact())
    if which == "files":
        old = manifest.files[0]
        entry = CarriedFile.model_construct(path=path, object=old.object, size=old.size, sha256=old.sha256)
        return manifest.model_copy(update={"files": [entry, *manifest.files[1:]]})
    weights = WeightFile.model_construct(path=path, size=manifest.weight_files[0].size, metadata={})
    return manifest.model_copy(update={"weight_files": [weights]})


@pytest.mark.parametrize("which", ["files", "weight_files"])
@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_manifest_cannot_place_a_file_elsewhere(tmp_path: Path, path: str, which: str) -> None:
    """It does not open. And if it did, the store that is written to would refuse."""
    path = path.format(outside=str(tmp_path)[1:])
    manifest = forged(path, which)
    with pytest.raises(FormatError, match=rf"key {which}\.0\.path: found {re.escape(repr(path))}"):
        nwc.open(MemoryStore({**intact(), MANIFEST_KEY: manifest.to_bytes()}))

    destination = tmp_path / "a" / "back"
    artifact = nwc.open(MemoryStore(intact()))
    artifact.manifest = manifest
    rows = list(artifact.index)
    assert {row.file for row in rows} == {SHARD}
    if which == "weight_files":
        for row in rows:
            object.__setattr__(row, "file", path)
    if path == "..\\evil":  # a plain name here, a path on Windows: only the manifest's check is for it
        decompress(artifact, LocalStore(destination))
    else:
        with pytest.raises(StoreError, match=r"climbs out|absolute"):
            decompress(artifact, LocalStore(destination))
    assert all(name.startswith("a/back/") for name in everything(tmp_path))


@pytest.mark.parametrize(
    "key", [MANIFEST_KEY, *CARRIED, manifest_of(intact()).index.object, manifest_of(intact()).payloads[0].object]
)
def test_links_out_of_an_artifact_are_not_followed(tmp_path: Path, key: str) -> None:
    """A downloaded folder may link to a private file of its reader; here it even has the right content."""
    folder = stored(tmp_path / "m.nwc", intact())
    secret = tmp_path / "secret"
    (folder / key).rename(secret)
    (folder / key).symlink_to(secret)
    with pytest.raises(StoreError, match="a symbolic link leads out of the folder"):
        _read_everything(folder, tmp_path / "back")


@pytest.mark.parametrize("key", [MANIFEST_KEY, manifest_of(intact()).payloads[0].object])
def test_pipes_folders_and_loops_are_no_objects(tmp_path: Path, key: str) -> None:
    """A named pipe would keep its reader waiting for ever."""
    for number, replace in enumerate((os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path))):
        folder = stored(tmp_path / str(number) / "m.nwc", intact())
        (folder / key).unlink()
        replace(folder / key)
        with pytest.raises((NotFoundError, StoreError), match=re.escape(key)):
            _read_everything(folder, tmp_path / str(number) / "back")


def _read_everything(folder: Path, destination: Path) -> None:
    with nwc.open(folder) as artifact:
        for name in artifact:
            artifact.get_tensor(name)
        assert verify(artifact)
        decompress(artifact, LocalStore(destination))


def test_a_link_inside_of_the_folder_is_an_object(tmp_path: Path) -> None:
    folder = stored(tmp_path / "m.nwc", intact())
    key = manifest_of(intact()).payloads[0].object
    (folder / key).rename(folder / "blob")
    (folder / key).symlink_to("blob")
    with nwc.open(folder) as artifact:
        assert verify(artifact) == []


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json", "notes"])
def test_links_in_the_destination_are_not_written_through(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (outside / "notes").mkdir(parents=True)
    if name != "notes":
        (outside / name).write_bytes(b"precious")
    destination = tmp_path / "back"
    destination.mkdir()
    (destination / name).symlink_to(outside / name)
    before = everything(outside)
    with pytest.raises(NwcError, match=r"already exists; nothing was written|a symbolic link leads out"):
        decompress(Artifact(MemoryStore(intact())), LocalStore(destination))
    assert everything(outside) == before
