import os
import sys
from pathlib import Path

import pytest

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_infra.stores.local import LocalStore


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return LocalStore(root)


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- links


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return tmp_path / "outside" / "secret"


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("kind", ["file", "folder", "chain"])
def test_a_link_that_leads_out_is_refused(store, root, secret, kind, absolute):
    outside = secret.parent if absolute else Path("../outside")
    key = {"file": "link", "folder": "link/secret", "chain": "first"}[kind]
    (root / "link").symlink_to(outside if kind == "folder" else outside / "secret")
    if kind == "chain":
        (root / "first").symlink_to("link")
    new = "link/new" if kind == "folder" else key
    calls = (
        lambda: store.get(key),
        lambda: store.size(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.put(key, b"evil"),
        lambda: store.put(new, b"evil"),
        lambda: store.create(new, b"evil"),
        lambda: store.delete(key),
    )
    for call in calls:
        with pytest.raises(StoreError, match="leads out of the folder") as caught:
            call()
        assert caught.value.key == f"{store.uri}/{key if call is not calls[4] and call is not calls[5] else new}"
    assert secret.read_bytes() == b"secret"
    assert everything_below(secret.parent) == ["secret"]


def test_a_link_through_the_outside_is_no_place_to_write(store, root, secret):
    # The link's end lies inside of the root again; the folder that would be changed does not.
    (root / "inside").write_bytes(b"x")
    (secret.parent / "back").symlink_to(root / "inside")
    (root / "link").symlink_to(secret.parent)
    with pytest.raises(StoreError, match="leads out"):
        store.put("link/back", b"evil")
    assert everything_below(secret.parent) == ["back", "secret"]


def test_links_inside_are_followed_for_reading_and_replaced_by_writing(store, root):
    store.put("folder/target", b"12345")
    (root / "link").symlink_to("folder/target")
    (root / "also").symlink_to("folder")
    assert store.get("link") == store.get("also/target") == b"12345"
    assert [(i.key, i.size) for i in store.list("link")] == [("link", 5)]
    store.put("link", b"new")
    assert store.get("link") == b"new"
    assert store.get("folder/target") == b"12345"
    (root / "second").symlink_to("folder/target")
    with pytest.raises(AlreadyExistsError):
        store.create("second", b"x")
    store.delete("second")
    assert not (root / "second").is_symlink()
    assert store.get("folder/target") == b"12345"


def test_list_names_links_that_cannot_be_read_and_walks_no_circle(store, root, secret):
    (root / "circle").symlink_to(root)
    (root / "dangling").symlink_to("nowhere")
    (root / "out").symlink_to(secret)
    (root / "self").symlink_to("self")
    store.put("z", b"x")
    assert [info.key for info in store.list()] == ["circle", "dangling", "out", "self", "z"]
    assert all(info.size != len(b"secret") for info in store.list("out"))
    for key, error in (
        ("circle", NotFoundError),
        ("dangling", NotFoundError),
        ("out", StoreError),
        ("self", StoreError),
    ):
        with pytest.raises(error):
            store.get(key)


def test_a_root_that_is_a_link_is_the_users_choice(store, root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    LocalStore(tmp_path / "alias").put("a/b", b"x")
    assert store.get("a/b") == b"x"


def hugging_face_cache(folder):
    """The layout of a downloaded model: files of a snapshot are links into a folder of blobs beside the snapshots."""
    snapshot = folder / "models--x" / "snapshots" / "abc"
    (snapshot / "sub").mkdir(parents=True)
    blobs = folder / "models--x" / "blobs"
    blobs.mkdir()
    (blobs / "b10b").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/b10b")
    (snapshot / "sub" / "file").symlink_to("../../../blobs/b10b")
    return snapshot


def test_a_hugging_face_cache_can_be_read_and_its_blobs_not_written(tmp_path, secret):
    snapshot = hugging_face_cache(tmp_path)
    store = LocalStore(snapshot)
    assert [(i.key, i.size) for i in store.list()] == [("model.safetensors", 7), ("sub/file", 7)]
    assert store.get("model.safetensors") == LocalStore(snapshot / "sub").get("file") == b"weights"
    with pytest.raises(StoreError, match="leads out"):
        store.put("model.safetensors", b"evil")
    (snapshot.parent.parent / "blobs" / "linked").symlink_to(secret)
    (snapshot / "evil").symlink_to("../../blobs/linked")
    with pytest.raises(StoreError, match="leads out"):
        store.get("evil")


# --- what is no object


def test_folders_devices_and_pipes_are_not_objects(store, root):
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")  # opening it the plain way would wait for ever
    for key in ("folder", "pipe"):
        for read in (store.get, store.size):
            with pytest.raises(NotFoundError, match="folder or a device"):
                read(key)


def test_a_folder_in_the_way_is_not_replaced(store, root):
    (root / "a").mkdir()
    with pytest.raises(StoreError, match="folder of that name is in the way"):
        store.put("a", b"x")
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"x")
    assert everything_below(root) == ["a"]


def test_an_object_in_the_way_of_a_folder_is_not_replaced(store, root):
    store.put("a", b"x")
    for write in (store.put, store.create):
        with pytest.raises(StoreError, match="where a folder is needed") as caught:
            write("a/b/c", b"y")
        assert not isinstance(caught.value, AlreadyExistsError)
    assert everything_below(root) == ["a"]


def test_a_root_that_is_a_file_holds_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    store = LocalStore(tmp_path / "file")
    assert list(store.list()) == []
    with pytest.raises(NotFoundError):
        store.get("a")
    with pytest.raises(StoreError, match="where a folder is needed"):
        store.put("a", b"y")


def test_names_beyond_the_file_systems_limit(store, root):
    for call in (lambda k: store.put(k, b"x"), lambda k: store.create(k, b"x")):
        with pytest.raises(StoreError, match="longer than the file system allows"):
            call("new/" + "x" * 300)
    assert everything_below(root) == []


def test_a_file_name_that_is_not_text_is_an_error_that_can_be_printed(store, root):
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"x")
    with pytest.raises(StoreError, match="not Unicode") as caught:
        list(store.list())
    str(caught.value).encode("utf-8")


def test_folders_nest_deeper_than_the_interpreters_stack(store):
    key = "/".join(["d"] * (sys.getrecursionlimit() + 100)) + "/x"
    store.put(key, b"x")
    try:
        assert [info.key for info in store.list()] == [key]
    finally:  # what clears temporary folders away later is recursive
        store.delete(key)
        folder = (store.path / key).parent
        while folder != store.path:
            folder.rmdir()
            folder = folder.parent
