"""Work that is worth doing only as long as the client waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def unless_gone(
    receive: Receive, work: Coroutine[Any, Any, T], *, undo: Callable[[T], Awaitable[None]]
) -> T:
    """Do the work for a client whose request was read to its end.

    When the client leaves, the work is broken off, or undone if it was through just then, and
    `ClientDisconnect` is raised; so it is when the server itself breaks the request off.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_await_leaving(receive))
    wanted = False
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not leaving.done():
            wanted = True
            return working.result()
    finally:
        leaving.cancel()
        if not wanted:
            working.cancel()
            await asyncio.wait({working})
            if not working.cancelled() and working.exception() is None:
                await undo(working.result())
    raise ClientDisconnect


async def _await_leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
