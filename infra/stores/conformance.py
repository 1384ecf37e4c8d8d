"""What every store must do, as a pytest class to subclass.

    from nwc_infra.stores.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self): ...  # an empty store, fresh for each test

Only test code imports this module: it needs pytest, which an installation that just runs does not have.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import ObjectInfo, Store

KEYS = ("a", "a b/c d", "ünïcode/权重.bin", "deep/er/and/deeper/still", "with.dots..inside", "%20+&=#?")
HOSTILE_KEYS = (
    "",
    "/",
    "/etc/nwc",
    "..",
    "../nwc",
    "a/../../nwc",
    "a/..",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "nul\0",
    "\ud800",
)
N_RACERS = 8


class StoreConformance:
    """The contract of nwc_core.store.Store. Override `store` with a fixture that gives an empty store."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty store."""
        raise NotImplementedError("override the fixture `store`")

    def test_it_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert "://" in store.uri

    @pytest.mark.parametrize("key", KEYS)
    def test_what_is_written_comes_back(self, store: Store, key: str) -> None:
        data = bytes(range(256)) * 5
        store.put(key, data)
        assert store.get(key) == data
        assert store.size(key) == len(data)
        assert list(store.list()) == [ObjectInfo(key, len(data))]

    def test_a_version_changes_with_the_object(self, store: Store) -> None:
        store.put("a", b"first")
        first = store.version("a")
        assert store.version("a") == first
        store.put("a", b"other")  # of the same size
        assert store.version("a") != first
        with pytest.raises(NotFoundError):
            store.version("missing")

    def test_a_stream_becomes_one_object(self, store: Store) -> None:
        store.put("a", b"old")
        store.put_stream("a", (bytes([i]) * i for i in range(5)))
        assert store.get("a") == b"\1\2\2\3\3\3\4\4\4\4"

    def test_a_stream_that_breaks_leaves_what_was_there(self, store: Store) -> None:
        def broken() -> Iterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        store.put("a", b"old")
        for key in ("a", "folder/new"):
            with pytest.raises(ZeroDivisionError):
                store.put_stream(key, broken())
        assert store.get("a") == b"old"
        assert [info.key for info in store.list()] == ["a"]

    @pytest.mark.parametrize("key", KEYS)
    def test_created_objects_come_back(self, store: Store, key: str) -> None:
        store.create(key, b"first")
        assert store.get(key) == b"first"

    def test_get_gives_bytes(self, store: Store) -> None:
        store.put("a", memoryview(bytearray(b"0123456789"))[2:5])
        assert type(store.get("a")) is bytes
        assert type(store.get_range("a", 0, 2)) is bytes
        assert store.get("a") == b"234"

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        store.put("put", b"")
        store.create("create", b"")
        for key in ("put", "create"):
            assert store.get(key) == b""
            assert store.get_range(key, 0, 0) == b""
            assert store.size(key) == 0
        assert list(store.list()) == [ObjectInfo("create", 0), ObjectInfo("put", 0)]
        with pytest.raises(AlreadyExistsError):
            store.create("put", b"x")
        with pytest.raises(StoreError):
            store.get_range("put", 0, 1)

    def test_put_replaces_by_longer_and_by_shorter(self, store: Store) -> None:
        for data in (b"middle", b"quite a bit longer", b"x"):
            store.put("a", data)
            assert store.get("a") == data
            assert store.size("a") == len(data)

    @pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 0), (0, 1), (3, 7), (9, 10), (10, 10), (5, 5)])
    def test_ranges_are_half_open(self, store: Store, start: int, stop: int) -> None:
        store.put("a", b"0123456789")
        assert store.get_range("a", start, stop) == b"0123456789"[start:stop]

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 11), (9, 11), (10, 11), (11, 12), (11, 11), (-1, 3), (-3, -1), (5, 4)]
    )
    def test_a_range_comes_whole_or_not_at_all(self, store: Store, start: int, stop: int) -> None:
        store.put("a", b"0123456789")
        with pytest.raises(StoreError):
            store.get_range("a", start, stop)

    def test_an_absurd_range_costs_no_memory(self, store: Store) -> None:
        store.put("a", b"0123456789")
        with pytest.raises(StoreError):
            store.get_range("a", 0, 1 << 62)

    def test_missing_objects_are_not_found_and_named(self, store: Store) -> None:
        store.put("folder/object", b"x")
        for key in ("missing", "folder", "folder/other", "folder/object/below"):
            for read in (store.get, store.size, partial(store.get_range, start=0, stop=1)):
                with pytest.raises(NotFoundError) as caught:
                    read(key)
                assert caught.value.key.startswith(store.uri)
                assert caught.value.key.endswith(key)

    def test_create_keeps_what_is_there(self, store: Store) -> None:
        store.create("a", b"first")
        with pytest.raises(AlreadyExistsError) as caught:
            store.create("a", b"second")
        assert caught.value.key.endswith("/a")
        assert store.get("a") == b"first"
        assert list(store.list()) == [ObjectInfo("a", 5)]

    def test_create_after_delete_works(self, store: Store) -> None:
        store.create("a", b"first")
        store.delete("a")
        store.create("a", b"second")
        assert store.get("a") == b"second"

    @pytest.mark.parametrize("key", ["a", "new/folder/a"])
    def test_of_racing_creators_exactly_one_wins(self, store: Store, key: str) -> None:
        payloads = [bytes([i]) * (1000 + i) for i in range(N_RACERS)]
        barrier = threading.Barrier(N_RACERS)

        def race(data: bytes) -> bool:
            mine: Store = pickle.loads(pickle.dumps(store))
            barrier.wait()
            try:
                mine.create(key, data)
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(N_RACERS) as pool:
            won = list(pool.map(race, payloads))
        assert won.count(True) == 1
        assert store.get(key) == payloads[won.index(True)]
        assert [info.key for info in store.list()] == [key]

    def test_readers_see_old_or_new_and_nothing_between(self, store: Store) -> None:
        versions = [bytes([i]) * 200_000 for i in range(8)]
        store.put("a", versions[0])
        done = threading.Event()

        def read() -> bool:
            whole = True
            while not done.is_set():
                whole = whole and store.get("a") in versions
            return whole

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            for data in versions:
                store.put("a", data)
            done.set()
            assert all(reader.result() for reader in readers)

    def test_list_is_in_key_order_and_recursive(self, store: Store) -> None:
        keys = ["b/a", "a", "B", "a.b", "a/b", "a/b.c", "ab", "a/b/c", "z/y/x", "a-b", "é", "a b"]
        keys.remove("a/b")  # a folder, to a store that has folders
        keys.remove("a")
        for key in keys:
            store.put(key, key.encode())
        assert list(store.list()) == [ObjectInfo(key, len(key.encode())) for key in sorted(keys)]

    def test_list_by_prefix_is_by_characters_not_by_folders(self, store: Store) -> None:
        keys = ["ab/c", "ab/d/e", "abc", "b", "ab d"]
        for key in keys:
            store.put(key, b"")
        for prefix in ("", "a", "ab", "ab/", "ab/d", "ab/d/", "ab/d/e", "ab/d/e/", "b", "c", "../", "/", "ab//", "\0"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert [info.key for info in store.list(prefix)] == expected, prefix

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list()) == []
        assert list(store.list("a/")) == []

    def test_delete_is_idempotent(self, store: Store) -> None:
        store.put("folder/a", b"x")
        store.put("folder/b", b"y")
        for _ in range(2):
            store.delete("folder/a")
        store.delete("never/was")
        store.delete("folder/b/below")
        store.delete("folder")  # a prefix of objects is no object
        assert [info.key for info in store.list()] == ["folder/b"]
        with pytest.raises(NotFoundError):
            store.get("folder/a")

    def test_a_pickled_store_is_the_same_store(self, store: Store) -> None:
        store.put("a", b"x")
        other: Store = pickle.loads(pickle.dumps(store))
        assert other.uri == store.uri
        assert other.get("a") == b"x"
        other.put("b", b"y")
        assert store.get("b") == b"y"

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_hostile_keys_are_errors_everywhere(self, store: Store, key: str) -> None:
        store.put("a/inside", b"x")
        calls = (
            lambda: store.put(key, b"evil"),
            lambda: store.create(key, b"evil"),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.size(key),
            lambda: store.delete(key),
        )
        for call in calls:
            with pytest.raises(StoreError) as caught:
                call()
            assert not isinstance(caught.value, NotFoundError | AlreadyExistsError)
            str(caught.value).encode("utf-8")  # an error that cannot be printed helps nobody
        assert list(store.list()) == [ObjectInfo("a/inside", 1)]

    def test_many_threads_share_a_store(self, store: Store) -> None:
        def work(i: int) -> bytes:
            store.put(f"shared/{i}", bytes([i]) * 1000)
            return store.get_range(f"shared/{i}", 10, 20)

        with ThreadPoolExecutor(N_RACERS) as pool:
            assert list(pool.map(work, range(40))) == [bytes([i]) * 10 for i in range(40)]
        assert len(list(store.list("shared/"))) == 40
