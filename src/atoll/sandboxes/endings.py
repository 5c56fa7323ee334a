"""Clearing away what is left of sandboxes that have ended."""

from __future__ import annotations

import asyncio

import structlog

from atoll.errors import AtollError
from atoll.isolation.driver import Driver
from atoll.sandboxes.model import EndReason, Sandbox
from atoll.sandboxes.records import strip_record
from atoll.store.sandboxes import SandboxStore

log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class Endings:
    """Records ends and removes sandboxes from the host, again and again when that fails."""

    def __init__(self, driver: Driver, store: SandboxStore) -> None:
        self._driver = driver
        self._store = store
        self._leftovers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what is still being tried: the next start finds what is left."""
        for task in self._leftovers:
            task.cancel()
        await asyncio.gather(*self._leftovers, return_exceptions=True)

    async def clear_away(self, sandbox: Sandbox, reason: EndReason) -> None:
        """Record the end and remove the sandbox. What fails is tried again in the background."""
        # The row first: should the server die before the sandbox does, the next start finds a
        # sandbox that nobody owns and removes it.
        sandbox_id = sandbox.sandbox_id
        recorded = await self.record(sandbox_id, reason)
        await sandbox.agent.close()
        destroyed = await self.destroy(sandbox_id)
        if not (recorded and destroyed):
            task = asyncio.create_task(self._keep_clearing(sandbox_id, reason))
            self._leftovers.add(task)
            task.add_done_callback(self._leftovers.discard)
        log.info("sandbox.ended", sandbox_id=sandbox_id, reason=reason.value)

    async def destroy(self, sandbox_id: str) -> bool:
        """Remove a sandbox from the host. Says whether that worked."""
        try:
            await self._driver.destroy(sandbox_id)
        except (AtollError, OSError) as error:
            log.error("sandbox.destroy_failed", sandbox_id=sandbox_id, error=str(error))
            return False
        return True

    async def record(self, sandbox_id: str, reason: EndReason) -> bool:
        """Write the end down. Says whether that worked."""
        try:
            await self._store.record_end(sandbox_id, reason.value, strip_record)
        except Exception as error:  # whatever the database's driver raises
            log.error("sandbox.record_failed", sandbox_id=sandbox_id, error=type(error).__name__)
            return False
        return True

    async def _keep_clearing(self, sandbox_id: str, reason: EndReason) -> None:
        """Try again, ever more seldom, until nothing of the sandbox is left."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            await asyncio.sleep(pause)
            recorded = await self.record(sandbox_id, reason)
            if await self.destroy(sandbox_id) and recorded:
                return
            pause = min(2 * pause, _LAST_RETRY_SECONDS)
