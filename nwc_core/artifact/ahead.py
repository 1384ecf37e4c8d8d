"""Work in order, some of it ahead: what is next is read and decoded while the caller is still at what came before.

Items go in windows, each of which is worked on as a whole (so that neighbouring blocks come in one request, and all cores
have something to do); two windows are under way at once, one of them waiting for the store while the other decodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from nwc_core.openmp import work_alone

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MAX_NBYTES = 256 << 20  # of items that are begun and not taken, unless one alone is larger
_AT_ONCE = 2  # windows under way
_WINDOWS = _AT_ONCE + 1  # those, and the one that is being taken


@dataclass
class _Window(Generic[_Item]):
    """Neighbours, and the bytes of each."""

    items: list[_Item]
    sizes: deque[int]


def ahead(
    items: Iterable[_Item],
    nbytes: Callable[[_Item], int],
    work: Callable[[list[_Item]], Sequence[_Result]],
    stop: Callable[[], object],
    limit: int = MAX_NBYTES,
) -> Iterator[_Result]:
    """The result of each item, in order.

    Args:
        items: what to work on.
        nbytes: that an item takes, all in all.
        work: gives the results of some neighbouring items, in their order. Called on threads of its own.
        stop: called when the iterator ends, by whatever; `work` that runs should then come to an end soon.
        limit: of bytes of items that are begun and not taken, unless one alone is larger.

    Raises:
        Exception: what `work` raised for an item, after the results of all before it. Threads end with the iterator, also
            where it is closed early: then what runs at that moment is waited for.
    """
    waiting = _windows(items, nbytes, limit // _WINDOWS)
    following = next(waiting, None)
    begun: deque[tuple[_Window[_Item], Future[Sequence[_Result]]]] = deque()
    held = 0

    with ThreadPoolExecutor(_AT_ONCE, "nwc-ahead", work_alone) as pool:

        def begin() -> None:
            nonlocal following, held
            while following is not None and len(begun) < _AT_ONCE:
                size = sum(following.sizes)
                if held and held + size > limit:
                    return
                held += size
                begun.append((following, pool.submit(work, following.items)))
                following = next(waiting, None)

        try:
            begin()
            while begun:
                window, future = begun.popleft()
                results = _results(window.items, future, work)
                del future  # or it would hold all results to the end
                for size in window.sizes:
                    result = deque((next(results),))
                    held -= size
                    begin()
                    yield result.popleft()  # taken is forgotten here
        finally:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)


def _results(
    items: list[_Item], future: Future[Sequence[_Result]], work: Callable[[list[_Item]], Sequence[_Result]]
) -> Iterator[_Result]:
    """The results of a window. One that failed is worked on again item by item, so that the error comes at its place."""
    try:
        found = deque(future.result())
    except Exception:
        if len(items) == 1:
            raise
    else:
        del future
        while found:
            yield found.popleft()
        return
    for item in items:
        yield work([item])[0]


def _windows(items: Iterable[_Item], nbytes: Callable[[_Item], int], limit: int) -> Iterator[_Window[_Item]]:
    """Neighbours that take at most so many bytes together; a larger one is alone."""
    window: _Window[_Item] = _Window([], deque())
    filled = 0
    for item in items:
        size = nbytes(item)
        if window.items and filled + size > limit:
            yield window
            window, filled = _Window([], deque()), 0
        window.items.append(item)
        window.sizes.append(size)
        filled += size
    if window.items:
        yield window
