"""Work whose effects must be known, whatever becomes of the task that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(threads: Executor, work: Callable[[], T]) -> T:
    """Run a function on a thread.

    When the caller is cancelled the function is waited for all the same, as its effects have to be
    known before they can be undone, and what it uses must not go while it runs.
    """
    return await finish(asyncio.get_running_loop().run_in_executor(threads, work))


async def finish(work: Awaitable[T]) -> T:
    """Do some work to its end, though the task that waits for it be cancelled meanwhile."""
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await _settle(future)
        raise


async def _settle(future: asyncio.Future[T]) -> T:
    """Wait for a future to the end, however often the waiting task is cancelled."""
    while True:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise
