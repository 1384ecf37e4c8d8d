"""Temporary files that killed writers left in a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nwc_core.errors import StoreError
from nwc_core.store import Upload
from nwc_infra.stores.local import LocalStore
from nwc_infra.stores.local_listing import TEMPORARY_PREFIX

_KILLED = """
import os, signal, sys
from nwc_infra.stores.local import LocalStore

def chunks():
    yield b"half"
    os.kill(os.getpid(), signal.SIGKILL)

LocalStore(sys.argv[1]).put_stream("model/payload", chunks())
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


def test_a_killed_writer_leaves_one_upload_with_its_time(store):
    done = subprocess.run([sys.executable, "-c", _KILLED, store.path], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = (store.path / "model").iterdir()
    os.utime(left, (1e9, 1e9))
    assert list(store.list()) == []
    assert list(store.uploads()) == [Upload(f"model/{left.name}", left.name, 1e9)]
    assert list(store.uploads("model/")) == list(store.uploads())
    assert list(store.uploads("other/")) == []
    for upload in store.uploads():
        store.abort(upload)
    assert list((store.path / "model").iterdir()) == []


def test_objects_are_never_aborted(store):
    store.put("a", b"x")
    for upload in (Upload("a", "a", 0.0), Upload("a", f"{TEMPORARY_PREFIX}1", 0.0)):
        with pytest.raises(StoreError, match="no unfinished write"):
            store.abort(upload)
    assert store.get("a") == b"x"


def test_an_abort_stays_below_the_root(store, tmp_path):
    name = f"{TEMPORARY_PREFIX}1"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / name).write_bytes(b"not ours")
    store.path.mkdir()
    (store.path / "link").symlink_to(tmp_path / "outside")
    (store.path / f"{name}link").symlink_to(tmp_path / "outside" / name)
    (store.path / f"{TEMPORARY_PREFIX}folder").mkdir()
    assert list(store.uploads()) == []  # links and folders are no unfinished writes
    with pytest.raises(StoreError, match="leads out"):
        store.abort(Upload(f"link/{name}", name, 0.0))
    with pytest.raises(StoreError):
        store.abort(Upload(f"../outside/{name}", name, 0.0))
    for harmless in (f"{name}link", f"{TEMPORARY_PREFIX}folder"):
        store.abort(Upload(harmless, harmless, 0.0))
    assert (tmp_path / "outside" / name).read_bytes() == b"not ours"
    assert (store.path / f"{TEMPORARY_PREFIX}folder").is_dir()


@pytest.mark.parametrize("method", ["put", "create"])
def test_a_writer_that_was_aborted_says_so_and_leaves_nothing(store, monkeypatch, method):
    def abort_all(descriptor: int) -> None:
        for upload in store.uploads():
            store.abort(upload)

    monkeypatch.setattr("os.fsync", abort_all)  # the last step before the file gets its name
    with pytest.raises(StoreError, match="somebody else aborted this write"):
        getattr(store, method)("new/a", b"data")
    assert not store.path.exists()
