import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from nwc_core.errors import PermissionDeniedError, StoreError, UsageError
from nwc_core.store import open_store
from nwc_infra.stores.conformance import StoreConformance
from nwc_infra.stores.local import LocalStore
from nwc_infra.stores.local_listing import TEMPORARY_PREFIX

NOBODY = 65534


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path / "root that does not exist yet")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return LocalStore(root)


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- names


def test_all_spellings_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spelling in (
        tmp_path / "x",
        str(tmp_path / "x"),
        f"file://{tmp_path}/x",
        f"file://{tmp_path}/x/",
        "file://x",
        "x",
    ):
        store = LocalStore(spelling)
        assert store.path == tmp_path / "x"
        assert store.uri == f"file://{tmp_path}/x"
        assert LocalStore(store.uri).path == store.path


def test_a_pickled_store_keeps_its_folder_after_a_change_of_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore("x")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(store)).path == tmp_path / "x"


def test_percent_and_tilde_are_taken_literally(tmp_path):
    LocalStore(f"file://{tmp_path}/a%20~b").put("k", b"x")
    assert (tmp_path / "a%20~b" / "k").read_bytes() == b"x"


@pytest.mark.parametrize("uri", ["", "file://", "s3://bucket/x", "file:///a\0b"])
def test_what_is_no_folder_is_refused(uri):
    with pytest.raises(UsageError):
        LocalStore(uri)


def test_the_entry_point_finds_it(tmp_path):
    assert isinstance(open_store(tmp_path), LocalStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)


# --- unfinished and failed writes


def test_unfinished_writes_are_neither_listed_nor_keys(store, root):
    (root / f"{TEMPORARY_PREFIX}left-by-a-crash").write_bytes(b"x")
    assert list(store.list()) == []
    for call in (store.get, lambda k: store.put(k, b"x")):
        with pytest.raises(StoreError, match="unfinished writes"):
            call(f"a/{TEMPORARY_PREFIX}x")


FAILURES = [
    (errno.ENOSPC, StoreError, "no space left"),
    (errno.EDQUOT, StoreError, "quota"),
    (errno.EACCES, PermissionDeniedError, "permission denied"),
    (errno.EROFS, PermissionDeniedError, "read-only"),
    (errno.EIO, StoreError, os.strerror(errno.EIO)),
]


def failing(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


STEPS = [
    (method, step)
    for method, last in (("put", "pathlib.Path.replace"), ("create", "os.link"))
    for step in ("pathlib.Path.mkdir", "pathlib.Path.open", "os.fsync", last)
    if (method, step) != ("put", "pathlib.Path.mkdir")  # put replaces an object here, so its folder exists
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(("method", "step"), STEPS)
def test_a_write_that_fails_at_any_step_leaves_everything_as_it_was(store, monkeypatch, method, step, failure):
    number, kind, words = failure
    root = store.path
    store.put("there", b"old")
    key = "there" if method == "put" else "new/folders/object"
    with monkeypatch.context() as patch:
        patch.setattr(step, failing(number))
        with pytest.raises(kind, match=words) as caught:
            getattr(store, method)(key, b"new")
    assert type(caught.value) is kind
    assert caught.value.key == f"{store.uri}/{key}"
    assert everything_below(root) == ["there"]
    assert store.get("there") == b"old"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named_as_the_cause(store, root, monkeypatch, number):
    monkeypatch.setattr("os.link", failing(number))
    with pytest.raises(StoreError, match="no hard links"):
        store.create("a", b"x")
    assert everything_below(root) == []


def test_an_interrupted_write_leaves_nothing(store, root, monkeypatch):
    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.put("new/a", b"x")
    assert everything_below(root) == []


def test_a_real_failure_in_the_middle_of_a_write(root):
    """The kernel itself stops the write after 4 KiB."""
    code = """
import resource, signal, sys
from nwc_core.errors import StoreError
from nwc_infra.stores.local import LocalStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = LocalStore(sys.argv[1])
store.put("fits", b"x" * 4096)
for write in (store.put, store.create):
    try:
        write("new/large", b"x" * 5000)
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, root], check=True, capture_output=True, text=True)
    assert done.stdout.count("larger than the file system or the process limit allows") == 2
    assert everything_below(root) == ["fits"]


@pytest.fixture
def unprivileged():
    """Root may do everything: become somebody who may not, for one test."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("root without the right to change the user")
    yield
    os.seteuid(0)


@pytest.fixture
def forbidden(tmp_path_factory):
    """A readable, unwritable folder with an unreadable object and an unreadable folder."""
    top = tmp_path_factory.mktemp("top")
    folder = top / "forbidden"
    (folder / "closed").mkdir(parents=True)
    (folder / "closed" / "x").write_bytes(b"x")
    (folder / "a").write_bytes(b"x")
    (folder / "a").chmod(0)
    (folder / "closed").chmod(0)
    folder.chmod(0o555)
    changed = [path for path in (top, *top.parents) if path != Path("/") and path.stat().st_uid == os.geteuid()]
    modes = [(path, path.stat().st_mode) for path in changed]
    for path, mode in modes:
        path.chmod(mode | 0o055)
    yield folder
    folder.chmod(0o755)
    (folder / "closed").chmod(0o755)
    for path, mode in modes:
        path.chmod(mode)


def test_permissions_of_the_system_are_told_in_plain_words(forbidden, unprivileged):
    store = LocalStore(forbidden)
    assert [info.key for info in store.list("a")] == ["a"]
    calls = (
        lambda: store.get("a"),
        lambda: store.size("a"),
        lambda: store.get("closed/x"),
        lambda: list(store.list()),
        lambda: store.put("a", b"y"),
        lambda: store.put("new/x", b"y"),
        lambda: store.create("b", b"y"),
        lambda: store.delete("a"),
    )
    for call in calls:
        with pytest.raises(PermissionDeniedError, match="permission denied"):
            call()


def test_written_files_follow_the_users_mask(store, root):
    old = os.umask(0o027)
    try:
        store.put("put", b"x")
        store.create("create", b"x")
    finally:
        os.umask(old)
    assert {(root / name).stat().st_mode & 0o777 for name in ("put", "create")} == {0o640}


def test_the_suite_is_not_imported_with_the_package():
    code = "import sys, nwc_infra, nwc_infra.stores.local; sys.exit('pytest' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
