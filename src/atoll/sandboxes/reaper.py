"""Deadlines: one task that ends what is due.

It goes by the event loop's monotonic clock, so that a jump of the wall clock ends nothing.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)


class Reaper:
    """Calls `expire(sandbox_id)` once its deadline has passed."""

    def __init__(self, expire: Callable[[str], Awaitable[None]]) -> None:
        self._expire = expire
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._expiring: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="reaper")

    def schedule(self, sandbox_id: str, seconds: float) -> None:
        """Set, or move, a deadline: so many seconds from now. Zero or less is at once."""
        due = asyncio.get_running_loop().time() + max(seconds, 0.0)
        self._due[sandbox_id] = due
        if len(self._heap) > 2 * len(self._due) + 64:  # mostly deadlines that were moved since
            self._heap = [(moment, each) for each, moment in self._due.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (due, sandbox_id))
        self._changed.set()

    def cancel(self, sandbox_id: str) -> None:
        """Forget a deadline."""
        self._due.pop(sandbox_id, None)

    def is_scheduled(self, sandbox_id: str) -> bool:
        """Whether a deadline lies ahead."""
        return sandbox_id in self._due

    async def stop(self) -> None:
        """Stop watching; what is being ended is waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._expiring, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            while self._heap:
                due, sandbox_id = self._heap[0]
                if self._due.get(sandbox_id) != due:  # moved or cancelled since
                    heapq.heappop(self._heap)
                elif due <= loop.time():
                    heapq.heappop(self._heap)
                    del self._due[sandbox_id]
                    # On its own, so that a slow end does not make the others late.
                    task = asyncio.create_task(self._end(sandbox_id))
                    self._expiring.add(task)
                    task.add_done_callback(self._expiring.discard)
                else:
                    break
            delay = self._heap[0][0] - loop.time() if self._heap else None
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _end(self, sandbox_id: str) -> None:
        try:
            await self._expire(sandbox_id)
        except Exception:
            log.exception("sandbox.expire_failed", sandbox_id=sandbox_id)
