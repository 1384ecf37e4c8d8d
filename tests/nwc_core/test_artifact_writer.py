"""Putting objects and committing: what is skipped, what wins, what is refused."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from artifact_samples import MemoryStore, make_artifact, make_manifest, make_rows

from nwc_core.artifact.manifest import Manifest
from nwc_core.artifact.writer import commit, existing_manifest, put_object
from nwc_core.errors import AlreadyExistsError, FormatError
from nwc_core.store import Store
from nwc_infra.stores.local import LocalStore


def some_manifest(fingerprint: str = "ab" * 32) -> Manifest:
    store = MemoryStore()
    manifest = make_manifest(store, *make_rows(store, {"a": torch.arange(9.0)}))
    return manifest.model_copy(update={"fingerprint": fingerprint})


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "artifact")


def test_put_object_names_by_content_and_uploads_once() -> None:
    store = MemoryStore()
    ref = put_object(store, "payload", b"abc")
    assert ref.sha256 == hashlib.sha256(b"abc").hexdigest() and ref.size == 3
    assert put_object(store, "payload", b"abc") == ref
    assert store.objects == {ref.object: b"abc"}
    assert "put" not in [request[0] for request in store.requests]  # created, conditionally, and not written again


def test_put_object_replaces_a_torn_upload() -> None:
    store = MemoryStore()
    ref = put_object(store, "payload", b"abc")
    store.objects[ref.object] = b"ab"
    put_object(store, "payload", b"abc")
    assert store.objects[ref.object] == b"abc"


def test_commit_once_twice_and_against_another(store: Store) -> None:
    assert existing_manifest(store) is None
    assert commit(store, some_manifest()) is True
    before = store.get("manifest.json")
    assert commit(store, some_manifest()) is False
    with pytest.raises(AlreadyExistsError, match=f"different artifact.*{'ab' * 32}.*{'cd' * 32}"):
        commit(store, some_manifest("cd" * 32))
    assert store.get("manifest.json") == before
    assert existing_manifest(store) == some_manifest()


def test_commit_leaves_a_foreign_manifest_alone() -> None:
    store = MemoryStore({"manifest.json": b'{"name": "a web app"}'})
    with pytest.raises(AlreadyExistsError, match="unreadable"):
        commit(store, some_manifest())
    assert store.objects == {"manifest.json": b'{"name": "a web app"}'}
    with pytest.raises(FormatError, match="key format"):
        existing_manifest(store)


def test_of_racing_commits_one_wins(store: Store) -> None:
    manifests = [some_manifest(f"{i:064x}") for i in range(8)]

    def attempt(manifest: Manifest) -> bool:
        try:
            return commit(store, manifest)
        except AlreadyExistsError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, manifests))
    assert won.count(True) == 1
    assert existing_manifest(store) == manifests[won.index(True)]


def test_equal_input_gives_equal_artifacts() -> None:
    tensors = {"a": torch.arange(40.0).reshape(10, 4), "b": torch.arange(5)}
    first, second = make_artifact(tensors), make_artifact(tensors)
    assert first.objects == second.objects
