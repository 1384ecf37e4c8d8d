"""Following a job's log until the job ends.

Promises: every character of the log is said once and in order. Ray sends a log from its beginning each time; what was
said before is left out. A connection that breaks, or says nothing while the job has ended, is not the job's end and no
reason to wait for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from nwc_core.errors import NwcError
from nwc_infra.jobs import JobInfo, UnreachableError

_AGAIN_SECONDS = 1.0
# A half-open connection is silent, as is a job that computes: every so often the job is looked up by another way.
_SILENCE_SECONDS = 30.0
# How long a head may be away, while it is restarted, say.
_PATIENCE_SECONDS = 300.0


def follow(
    tail: Callable[[], AsyncIterator[str]], look_up: Callable[[], JobInfo], say: Callable[[str], None]
) -> JobInfo:
    """Says the log as it comes; gives what is known about the job once it has ended.

    Args:
        tail: opens the log at its beginning; ends when the job ends, or the connection.
        look_up: the job's state; raises UnreachableError where that may pass.
        say: takes pieces of the log, line breaks and all.

    Raises:
        UnreachableError: nobody answered for five minutes.
        NwcError: whatever else look_up raises.
    """
    return asyncio.run(_follow(tail, look_up, say))  # which turns Ctrl-C into KeyboardInterrupt, connections closed


async def _follow(
    tail: Callable[[], AsyncIterator[str]], look_up: Callable[[], JobInfo], say: Callable[[str], None]
) -> JobInfo:
    said = 0
    while True:
        position = 0
        pieces = tail()
        while (piece := await _next(pieces, look_up)) is not None:
            new = piece[max(0, said - position) :]
            position += len(piece)
            if new:
                said = position
                say(new)
        info = await _look_up_patiently(look_up)
        if info.has_ended:
            return info
        await asyncio.sleep(_AGAIN_SECONDS)


async def _next(pieces: AsyncIterator[str], look_up: Callable[[], JobInfo]) -> str | None:
    """The next piece; None at the end, at a broken connection, and in a silence in which the job turns out to have ended."""
    coming = asyncio.ensure_future(anext(pieces))
    ended = False
    try:
        while not coming.done():
            await asyncio.wait({coming}, timeout=_SILENCE_SECONDS)
            if not coming.done():
                if ended:
                    return None
                ended = (await _look_up_patiently(look_up)).has_ended
        return coming.result()
    except Exception as error:  # the end, or what Ray's client and aiohttp raise for a broken connection
        if isinstance(error, NwcError):
            raise  # of look_up
        return None
    finally:
        coming.cancel()


async def _look_up_patiently(look_up: Callable[[], JobInfo]) -> JobInfo:
    start = time.monotonic()
    while True:
        try:
            return await asyncio.to_thread(look_up)
        except UnreachableError:
            if time.monotonic() - start > _PATIENCE_SECONDS:
                raise
        await asyncio.sleep(5 * _AGAIN_SECONDS)
