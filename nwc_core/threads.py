"""Work on several threads; the kernels underneath release the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def map_threads(function: Callable[[int], _T], indices: range, threads: int) -> list[_T]:
    """[function(i) for i in indices] on several threads."""
    if threads == 1 or len(indices) == 1:
        return [function(index) for index in indices]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, indices))
