"""Rows that come one by one and are written together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

_RETRY_SECONDS = 5.0


class BatchWriter(Generic[Item]):
    """Takes items without waiting and writes them in the background, many per transaction.

    What came within the last `linger` seconds is lost when the server is killed. When the database
    can't keep up, more than `bound` waiting items are not taken: losing history is better than
    running out of memory.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[None]],
        *,
        linger: float,
        bound: int = 20_000,
    ) -> None:
        self._write = write
        self._linger = linger
        self._bound = bound
        self._waiting: list[Item] = []
        self._dropped = 0
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._flushes: set[asyncio.Task[bool]] = set()

    def add(self, item: Item) -> None:
        """Have an item written soon."""
        if len(self._waiting) >= self._bound:
            self._dropped += 1
            return
        self._waiting.append(item)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def flush(self) -> None:
        """Write what is waiting. When this returns, readers find it, if the database works."""
        # A task of its own: the caller may be cancelled, the items must not be lost with it.
        task = asyncio.create_task(self._flush())
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Write what is waiting; nothing is added any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def _run(self) -> None:
        pause = self._linger
        while self._waiting:
            await asyncio.sleep(pause)
            task = asyncio.create_task(self._flush())
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)
            pause = self._linger if await asyncio.shield(task) else _RETRY_SECONDS

    async def _flush(self) -> bool:
        async with self._lock:
            if not self._waiting:
                return True
            items, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("history.dropped", items=dropped)
            try:
                await self._write(items)
            except Exception as error:  # whatever the database's driver raises
                log.error("history.write_failed", error=type(error).__name__)
                self._waiting = (items + self._waiting)[: self._bound]
                return False
            return True
