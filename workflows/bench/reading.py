"""Loading a model from where it is stored: the original, straight into memory, beside the artifact, decoded.

Both in turns, as tensors of this process; medians over the rounds. The way to the store may be held to a bandwidth, see
`nwc_workflows.bench.throttle`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nwc_core
from nwc_core.artifact.fetch import MAX_READERS
from nwc_core.errors import UsageError
from nwc_core.store import Store, open_store
from nwc_workflows.bench.throttle import throttled
from nwc_workflows.sources import SourceTensor, open_checkpoint

if TYPE_CHECKING:
    import torch

ROUNDS = 5
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


class CountingStore:
    """A store that counts the bytes that are read from it."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self.uri, self.nbytes = store.uri, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def get(self, key: str) -> bytes:
        return self._counted(self._store.get(key))

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        return self._counted(self._store.get_range(key, start, stop))

    def _counted(self, data: bytes) -> bytes:
        with self._lock:
            self.nbytes += len(data)
        return data


def bench_reading(
    original: str, artifact: str, bandwidth: float | None, threads: int | None, advance: Callable[[int], None]
) -> list[Reading]:
    """Load both, ROUNDS times each.

    Args:
        original: of a checkpoint; a path or URI.
        artifact: that was made from it.
        bandwidth: bytes per second of the way to a store that is reached by HTTP; None for what it gives.
        threads: to decode on; None for all cores.
        advance: told of each round of each.

    Raises:
        NwcError: one of them cannot be read.
        UsageError: they do not hold the same tensors, or a bandwidth for what is on this machine.
    """
    stores = open_store(original, "source"), open_store(artifact)
    for store in stores:
        if bandwidth is not None and store.uri.startswith("file://"):
            raise UsageError(f"bandwidth: found {store.uri}; wanted what is reached by HTTP, such as s3://bucket/model")
    with nullcontext() if bandwidth is None else throttled(bandwidth):
        with nwc_core.open(stores[1]) as opened:  # warm: kernels, connections, codec
            names = set(opened.get_tensors(opened, threads=threads))
        checkpoint = open_checkpoint(stores[0])
        if {tensor.name for tensor in checkpoint.tensors} != names:
            found = f"{original} with {len(checkpoint.tensors)} tensors and {artifact} with {len(names)}"
            raise UsageError(f"found {found}; wanted a checkpoint and the artifact that was made from it")
        ways: dict[str, tuple[Store, Callable[[Store], int]]] = {
            "original": (stores[0], _load_original),
            "artifact": (stores[1], lambda store: len(nwc_core.load(store, threads=threads))),
        }
        rounds: dict[str, list[Reading]] = {what: [] for what in ways}
        for _ in range(ROUNDS):
            for what, (store, load) in ways.items():
                rounds[what].append(_timed(what, store, load))
                advance(1)
    return [_together(each) for each in rounds.values()]


def _timed(what: str, store: Store, load: Callable[[Store], int]) -> Reading:
    counting = CountingStore(store)
    started = time.perf_counter()
    tensors = load(counting)  # type: ignore[arg-type]  # what it does not have it hands on
    return Reading(what, counting.nbytes, tensors, (time.perf_counter() - started,))


def _together(rounds: Sequence[Reading]) -> Reading:
    first = rounds[0]
    return Reading(first.what, first.nbytes, first.tensors, tuple(each.median for each in rounds))


def _load_original(store: Store) -> int:
    """All tensors of a checkpoint, its files by ranges at once; how many there were."""
    checkpoint = open_checkpoint(store)
    files = {file.path: bytearray(file.size) for file in checkpoint.weight_files}

    def read(path: str, start: int) -> None:
        data = store.get_range(path, start, min(start + _RANGE_NBYTES, len(files[path])))
        files[path][start : start + len(data)] = data

    with ThreadPoolExecutor(MAX_READERS) as pool:
        places = [(path, start) for path, data in files.items() for start in range(0, len(data), _RANGE_NBYTES)]
        list(pool.map(lambda place: read(*place), places))
    loaded = {tensor.name: _view(files[tensor.file], tensor) for tensor in checkpoint.tensors}
    return len(loaded)


def _view(file: bytearray, tensor: SourceTensor) -> torch.Tensor:
    """A tensor in the memory of its file."""
    import torch

    if not tensor.numel:
        return torch.empty(tensor.shape, dtype=tensor.dtype.torch)
    flat = torch.frombuffer(file, dtype=torch.uint8, offset=tensor.start, count=tensor.numel * tensor.dtype.itemsize)
    if tensor.start % tensor.dtype.itemsize:
        flat = flat.clone()
    return flat.view(tensor.dtype.torch).reshape(tensor.shape)


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
