"""Work in order, some of it ahead: what is next is read and decoded while the caller is still at what came before.

Items go in windows, each of which is worked on as a whole (so that neighbouring blocks come in one request, and all cores
have something to do); two windows are under way at once, one of them waiting for the store while the other decodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MAX_NBYTES = 256 << 20  # of results that are begun and not taken, unless one alone is larger
_AT_ONCE = 2  # windows under way, besides the one that is being taken
_WINDOWS = _AT_ONCE + 1


def ahead(
    items: Iterable[_Item],
    nbytes: Callable[[_Item], int],
    work: Callable[[list[_Item]], Sequence[_Result]],
    limit: int = MAX_NBYTES,
) -> Iterator[_Result]:
    """The result of each item, in order.

    Args:
        items: what to work on.
        nbytes: of an item's result.
        work: gives the results of some neighbouring items, in their order. Called on threads of its own.
        limit: of bytes of results in memory, unless one alone is larger.

    Raises:
        Exception: what `work` raised, after the results of all windows before. Threads end with the iterator, also where it
            is closed early: then what runs at that moment is waited for.
    """
    waiting = _windows(items, nbytes, limit // _WINDOWS)
    begun: deque[Future[Sequence[_Result]]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, "nwc-ahead") as pool:
        try:
            while True:
                while len(begun) < _AT_ONCE and (window := next(waiting, None)) is not None:
                    begun.append(pool.submit(work, window))
                if not begun:
                    return
                results = deque(begun.popleft().result())
                if (window := next(waiting, None)) is not None:
                    begun.append(pool.submit(work, window))
                while results:
                    yield results.popleft()  # taken is forgotten here
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _windows(items: Iterable[_Item], nbytes: Callable[[_Item], int], limit: int) -> Iterator[list[_Item]]:
    """Neighbours whose results take at most so many bytes together; a larger one is alone."""
    window: list[_Item] = []
    size = 0
    for item in items:
        if window and size + nbytes(item) > limit:
            yield window
            window, size = [], 0
        window.append(item)
        size += nbytes(item)
    if window:
        yield window
