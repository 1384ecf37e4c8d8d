"""What every store must do, for writers and (by the class that it extends) for readers, as a pytest class to subclass.

    from nwc_infra.stores.conformance import StoreConformance

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self): ...  # an empty store, fresh for each test

Only test code imports this module: it needs pytest, which an installation that just runs does not have.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import ObjectInfo, Store, Upload
from nwc_infra.stores.conformance_reading import HOSTILE_KEYS, KEYS, ReadingConformance, Stored

N_RACERS = 8
CHUNK_NBYTES = 9 << 20  # three of them are too much for a store to hold back
DAY = 86_400  # seconds; no clock of a server is wrong by more


class StoreConformance(ReadingConformance):
    """The contract of nwc_core.store.Store. Override `store` with a fixture that gives an empty store."""

    SHOWS_UPLOADS = True  # False for a store that keeps nothing of a write that has not ended

    @pytest.fixture
    def store(self) -> Store:
        """An empty store."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    def stored(self, store: Store) -> Stored:
        """Makes a store of some objects by writing them into the empty one."""

        def fill(objects: Mapping[str, bytes]) -> Store:
            for key, data in objects.items():
                store.put(key, data)
            return store

        return fill

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

    def test_get_gives_the_bytes_of_a_view(self, store: Store) -> None:
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

    def test_a_listing_says_when_if_the_store_knows(self, store: Store) -> None:
        times = []
        for data in (b"first", b"second"):
            store.put("a", data)
            (info,) = store.list()
            times.append(info.modified)
        assert times == [0.0, 0.0] or abs(times[0] - time.time()) < DAY
        assert times[0] <= times[1]

    def test_a_store_at_rest_has_no_uploads(self, store: Store) -> None:
        def broken() -> Iterator[bytes]:
            yield bytes(CHUNK_NBYTES)
            yield bytes(CHUNK_NBYTES)
            raise ZeroDivisionError

        assert list(store.uploads()) == []
        store.put("a", b"x")
        store.create("b/c", b"y")
        store.put_stream("b/d", [bytes(CHUNK_NBYTES)] * 2)
        with pytest.raises(AlreadyExistsError):
            store.create("a", b"z")
        with pytest.raises(ZeroDivisionError):
            store.put_stream("b/e", broken())
        assert list(store.uploads()) == []

    def test_an_unfinished_write_can_be_found_and_aborted(self, store: Store) -> None:
        """A killed writer leaves what a writer has in the middle of its work."""
        found: list[Upload] = []

        def chunks() -> Iterator[bytes]:
            for _ in range(3):
                yield bytes(CHUNK_NBYTES)
            assert [info.key for info in store.list()] == ["ab/other"]
            found.extend(store.uploads("ab/"))
            assert list(store.uploads()) == found
            for upload in found:
                assert 0 < upload.started < time.time() + DAY
                assert list(store.uploads(upload.key)) == [upload]
                assert list(store.uploads(f"{upload.key}x")) == []
            assert list(store.uploads("ab/o")) == list(store.uploads("b")) == list(store.uploads("\0")) == []
            for _ in range(2):
                for upload in found:
                    store.abort(upload)
            assert list(store.uploads()) == []
            yield b"end"

        store.put("ab/other", b"x")
        if self.SHOWS_UPLOADS:
            with pytest.raises(StoreError):
                store.put_stream("ab/large", chunks())
            assert len(found) == 1
            store.abort(found[0])  # gone for long
            assert [info.key for info in store.list()] == ["ab/other"]
        else:
            store.put_stream("ab/large", chunks())
            assert found == []

    def test_aborting_what_is_no_upload_does_no_harm(self, store: Store) -> None:
        store.put("a", b"x")
        store.put("folder/b", b"y")
        for key in ("a", "folder", "folder/b", "missing", "folder/b/below", *HOSTILE_KEYS):
            for name in ("", "1", key, key.rpartition("/")[2]):
                with suppress(StoreError):
                    store.abort(Upload(key, name, 0.0))
        assert list(store.list()) == [ObjectInfo("a", 1), ObjectInfo("folder/b", 1)]
        assert store.get("a") + store.get("folder/b") == b"xy"

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
