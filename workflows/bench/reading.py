"""Loading a model from where it is stored: the original, straight into memory, beside the artifact, decoded.

Both in turns, as tensors of this process; medians over the rounds. A store may be held to a bandwidth, all its requests
together, as by a network card: bytes then arrive no sooner than that lets them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import nwc_core
from nwc_core.artifact.manifest import MANIFEST_KEY
from nwc_core.errors import UsageError
from nwc_core.store import Store, open_store
from nwc_workflows.sources import open_checkpoint, to_tensor

ROUNDS = 5
_READERS = 16
_RANGE_NBYTES = 8 << 20  # of the original, in one request


@dataclass(frozen=True)
class Reading:
    """One of the two.

    Attributes:
        what: "original" or "artifact".
        nbytes: that were read, of weights and all that is needed to read them.
        tensors: that were loaded.
        seconds: wall time of each round, opening included.
    """

    what: str
    nbytes: int
    tensors: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class PacedStore:
    """A store whose reads share a bandwidth, and which counts them.

    Args:
        store: that is read.
        bandwidth: bytes per second; None for no bound.
    """

    def __init__(self, store: Store, bandwidth: float | None) -> None:
        self._store, self._bandwidth = store, bandwidth
        self.uri, self.nbytes = store.uri, 0
        self._free = 0.0  # when the line will be
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        return self._arrived(self._store.get(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self._arrived(self._store.get_range(key, start, stop))

    def _arrived(self, data: bytes) -> bytes:
        with self._lock:
            self.nbytes += len(data)
            if self._bandwidth is None:
                return data
            self._free = max(self._free, time.monotonic()) + len(data) / self._bandwidth
            wait = self._free - time.monotonic()
        time.sleep(max(0.0, wait))
        return data


def bench_reading(
    original: str, artifact: str, bandwidth: float | None, threads: int | None, advance: Callable[[int], None]
) -> list[Reading]:
    """Load both, ROUNDS times each.

    Args:
        original: of a checkpoint; a path or URI.
        artifact: that was made from it.
        bandwidth: bytes per second; None for what the store gives.
        threads: to decode on; None for all cores.
        advance: told of each round of each.

    Raises:
        NwcError: one of them cannot be read.
        UsageError: they do not hold the same tensors.
    """
    stores = open_store(original, "source"), open_store(artifact)
    ways: dict[str, tuple[Store, Callable[[PacedStore], int]]] = {
        "original": (stores[0], _load_original),
        "artifact": (stores[1], lambda store: len(nwc_core.load(store, threads=threads))),  # type: ignore[arg-type]
    }
    with nwc_core.open(stores[1]) as opened:  # warm: kernels, connections, codec
        names = set(opened.keys())
        opened.get_tensors(names, threads=threads)
    checkpoint = open_checkpoint(stores[0])
    if {tensor.name for tensor in checkpoint.tensors} != names:
        found = f"{original} with {len(checkpoint.tensors)} tensors and {artifact}/{MANIFEST_KEY} with {len(names)}"
        raise UsageError(f"found {found}; wanted a checkpoint and the artifact that was made from it")
    seconds: dict[str, list[float]] = {what: [] for what in ways}
    nbytes, tensors = {}, {}
    for _ in range(ROUNDS):
        for what, (store, load) in ways.items():
            paced = PacedStore(store, bandwidth)
            started = time.perf_counter()
            tensors[what] = load(paced)
            seconds[what].append(time.perf_counter() - started)
            nbytes[what] = paced.nbytes
            advance(1)
    return [Reading(what, nbytes[what], tensors[what], tuple(seconds[what])) for what in ways]


def _load_original(store: PacedStore) -> int:
    """All tensors of a checkpoint, by ranges of its files at once; how many there were."""
    checkpoint = open_checkpoint(store)  # type: ignore[arg-type]
    with ThreadPoolExecutor(_READERS) as pool:
        files = {}
        for file in checkpoint.weight_files:
            starts = range(0, file.size, _RANGE_NBYTES)
            pieces = [
                pool.submit(store.get_range, file.path, start, min(start + _RANGE_NBYTES, file.size))
                for start in starts
            ]
            data = bytearray(file.size)
            for start, piece in zip(starts, pieces, strict=True):
                found = piece.result()
                data[start : start + len(found)] = found
            files[file.path] = memoryview(data)
    loaded = [
        to_tensor(files[t.file][t.start : t.start + t.numel * t.dtype.itemsize], t.dtype, t.shape)  # type: ignore[arg-type]
        for t in checkpoint.tensors
    ]
    return len(loaded)


def reading_table(found: list[Reading]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Header and rows: sizes, times, and both as shares of the original's."""
    first = found[0]
    header = ("what", "MB read", "share", "seconds", "share", "ms per tensor", "MB/s")
    return header, [
        (
            *(one.what, f"{one.nbytes / 1e6:.2f}", f"{one.nbytes / first.nbytes:.3f}"),
            *(f"{one.median:.3f}", f"{one.median / first.median:.3f}"),
            *(f"{1e3 * one.median / max(1, one.tensors):.3f}", f"{one.nbytes / one.median / 1e6:.0f}"),
        )
        for one in found
    ]
