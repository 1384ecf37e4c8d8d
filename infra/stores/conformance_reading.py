"""What every store must do for readers, as a pytest class to subclass: also for one that is never written to.

    from nwc_infra.stores.conformance_reading import ReadingConformance

    class TestMyReadOnlyStore(ReadingConformance):
        @pytest.fixture
        def stored(self): ...  # a function from objects (key to bytes) to a store that holds exactly these

Only test code imports this module: it needs pytest, which an installation that just runs does not have.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from nwc_core.errors import AlreadyExistsError, NotFoundError, StoreError
from nwc_core.store import ObjectInfo, Store

Stored = Callable[[Mapping[str, bytes]], Store]

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
N_READERS = 8


class ReadingConformance:
    """The reading part of the contract of nwc_core.store.Store. Override `stored`."""

    @pytest.fixture
    def stored(self) -> Stored:
        """Makes a store that holds exactly the objects given."""
        raise NotImplementedError("override the fixture `stored`")

    def test_it_is_a_store(self, stored: Stored) -> None:
        store = stored({})
        assert isinstance(store, Store)
        assert "://" in store.uri

    @pytest.mark.parametrize("key", KEYS)
    def test_what_is_stored_can_be_read(self, stored: Stored, key: str) -> None:
        data = bytes(range(256)) * 5
        store = stored({key: data})
        assert list(store.list()) == [ObjectInfo(key, len(data))]
        assert store.get(key) == data
        assert store.get_range(key, 250, 260) == data[250:260]
        assert store.size(key) == len(data)

    def test_a_version_is_the_objects_own(self, stored: Stored) -> None:
        store = stored({"a": b"first", "b": b"other"})
        assert store.version("a") == store.version("a") != store.version("b")
        with pytest.raises(NotFoundError):
            store.version("missing")

    def test_get_gives_bytes(self, stored: Stored) -> None:
        store = stored({"a": b"234"})
        assert type(store.get("a")) is bytes
        assert type(store.get_range("a", 0, 2)) is bytes

    def test_an_empty_object_can_be_read(self, stored: Stored) -> None:
        store = stored({"a": b""})
        assert store.get("a") == b""
        assert store.get_range("a", 0, 0) == b""
        assert store.size("a") == 0
        assert list(store.list()) == [ObjectInfo("a", 0)]
        with pytest.raises(StoreError):
            store.get_range("a", 0, 1)

    @pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 0), (0, 1), (3, 7), (9, 10), (10, 10), (5, 5)])
    def test_ranges_are_half_open(self, stored: Stored, start: int, stop: int) -> None:
        assert stored({"a": b"0123456789"}).get_range("a", start, stop) == b"0123456789"[start:stop]

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 11), (9, 11), (10, 11), (11, 12), (11, 11), (-1, 3), (-3, -1), (5, 4)]
    )
    def test_a_range_comes_whole_or_not_at_all(self, stored: Stored, start: int, stop: int) -> None:
        with pytest.raises(StoreError):
            stored({"a": b"0123456789"}).get_range("a", start, stop)

    def test_an_absurd_range_costs_no_memory(self, stored: Stored) -> None:
        with pytest.raises(StoreError):
            stored({"a": b"0123456789"}).get_range("a", 0, 1 << 62)

    def test_missing_objects_are_not_found_and_named(self, stored: Stored) -> None:
        store = stored({"folder/object": b"x"})
        for key in ("missing", "folder", "folder/other", "folder/object/below"):
            for read in (partial(store.get_range, start=0, stop=1), store.get, store.size):
                with pytest.raises(NotFoundError) as caught:
                    read(key)
                assert caught.value.key.startswith(store.uri)
                assert caught.value.key.endswith(key)

    def test_list_is_in_key_order_and_recursive(self, stored: Stored) -> None:
        # Neither "a" nor "a/b": these are folders, to a store that has folders.
        keys = ["b/a", "B", "a.b", "a/b.c", "ab", "a/b/c", "z/y/x", "a-b", "é", "a b"]
        store = stored({key: key.encode() for key in keys})
        assert list(store.list()) == [ObjectInfo(key, len(key.encode())) for key in sorted(keys)]

    def test_list_by_prefix_is_by_characters_not_by_folders(self, stored: Stored) -> None:
        keys = ["ab/c", "ab/d/e", "abc", "b", "ab d"]
        store = stored(dict.fromkeys(keys, b""))
        for prefix in ("", "a", "ab", "ab/", "ab/d", "ab/d/", "ab/d/e", "ab/d/e/", "b", "c", "../", "/", "ab//", "\0"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert [info.key for info in store.list(prefix)] == expected, prefix

    def test_an_empty_store_lists_nothing(self, stored: Stored) -> None:
        store = stored({})
        assert list(store.list()) == []
        assert list(store.list("a/")) == []

    def test_a_pickled_store_reads_the_same(self, stored: Stored) -> None:
        store = stored({"a": b"x"})
        other: Store = pickle.loads(pickle.dumps(store))
        assert other.uri == store.uri
        assert other.get("a") == b"x"
        assert other.version("a") == store.version("a")

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_hostile_keys_cannot_be_read(self, stored: Stored, key: str) -> None:
        store = stored({"a/inside": b"x"})
        for read in (store.get, store.size, store.version, partial(store.get_range, start=0, stop=1)):
            with pytest.raises(StoreError) as caught:
                read(key)
            assert not isinstance(caught.value, NotFoundError | AlreadyExistsError)
            str(caught.value).encode("utf-8")  # an error that cannot be printed helps nobody

    def test_many_threads_read_a_store(self, stored: Stored) -> None:
        store = stored({f"shared/{i}": bytes([i]) * 1000 for i in range(40)})
        with ThreadPoolExecutor(N_READERS) as pool:
            found = list(pool.map(lambda i: store.get_range(f"shared/{i}", 10, 20), range(40)))
        assert found == [bytes([i]) * 10 for i in range(40)]
        assert len(list(store.list("shared/"))) == 40
