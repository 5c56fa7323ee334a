"""The warm pool: sandboxes that are booted before anyone asks for them.

A pooled sandbox is a sandbox like any other that has no owner yet: it was booted from the same
template by the same code, nobody ran anything in it, and it already has the id that its owner will
see. What makes it somebody's (tokens, variables, metadata, egress, deadline) is given at the moment
it is handed out, in the same way as to one that was booted on demand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from atoll.sandboxes.model import Sandbox
from atoll.templates.model import Template, is_same

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 5.0
# While creates come thick and fast, the processors are better used by them than by refilling.
_QUIET_SECONDS = 0.05
_MOST_KEPT = 8
"""Templates that nobody has asked for yet and of which one sandbox is ready."""


class Pool:
    """Keeps `size` sandboxes of each template in use ready."""

    def __init__(
        self,
        size: int,
        *,
        boot: Callable[[Template], Awaitable[Sandbox]],
        discard: Callable[[Sandbox], Coroutine[Any, Any, None]],
    ) -> None:
        self._size = size
        self._boot = boot
        self._discard = discard
        self._ready: dict[str, deque[Sandbox]] = {}
        self._fillers: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[str, Template] = {}
        self._kept: dict[str, None] = {}
        """Templates that nobody has asked for, in the order in which they came."""
        self._ending: set[asyncio.Task[None]] = set()
        self._discarding: set[asyncio.Task[None]] = set()
        self._taken_at = 0.0
        self._running = False

    def start(self) -> None:
        """Begin to boot. Until then, sandboxes of an earlier server can be put in."""
        self._running = True
        for template in list(self._wanted.values()):
            self.warm(template)

    def warm(self, template: Template) -> None:
        """Keep this template's sandboxes ready from now on, replacing those of older builds."""
        if not self._size:
            return
        older = self._wanted.get(template.template_id)
        if older is not None and older.created_at > template.created_at:
            return  # an old build, by its tag: the others of the template are asked for more often
        self._wanted[template.template_id] = template
        self._kept.pop(template.template_id, None)
        if older is not None and not is_same(older, template):
            self._drop(template.template_id)
        if not self._running:
            return
        filler = self._fillers.get(template.template_id)
        if filler is None or filler.done():
            self._fillers[template.template_id] = asyncio.create_task(
                self._fill(template.template_id), name=f"pool {template.template_id}"
            )

    def take(self, template: Template) -> Sandbox | None:
        """Hand out a ready sandbox, the oldest first, or None when there is none."""
        self._taken_at = asyncio.get_running_loop().time()
        ready = self._ready.get(template.template_id)
        try:
            while ready:
                sandbox = ready.popleft()
                if sandbox.ended.is_set():
                    continue
                if is_same(sandbox.template, template):
                    sandbox.template = template
                    return sandbox
                self._discard_soon(sandbox)
            return None
        finally:
            self.warm(template)

    def put(self, sandbox: Sandbox) -> bool:
        """Take in a sandbox that is pooled already (after a restart), if it is still wanted."""
        wanted = self._wanted.get(sandbox.template.template_id)
        if wanted is None or not is_same(wanted, sandbox.template):
            return False
        ready = self._ready.setdefault(wanted.template_id, deque())
        if len(ready) >= self._size:
            return False
        ready.append(sandbox)
        return True

    def keep(self, sandbox: Sandbox) -> bool:
        """Take in one of a template that nobody has asked for yet, so that the first need not wait.

        Of such templates the newest few have one ready.
        """
        template = sandbox.template
        if not self._size or not self._running:
            return False
        if template.template_id in self._wanted:
            self.warm(template)
            return self.put(sandbox)
        self._drop(template.template_id)
        self._ready[template.template_id] = deque([sandbox])
        self._kept[template.template_id] = None
        while len(self._kept) > _MOST_KEPT:
            oldest = next(iter(self._kept))
            self._drop(oldest)
        return True

    def forget(self, template_id: str) -> None:
        """Keep no sandbox of this template any more: it was removed."""
        self._wanted.pop(template_id, None)
        if (filler := self._fillers.pop(template_id, None)) is not None:
            filler.cancel()
            self._ending.add(filler)
            filler.add_done_callback(self._ending.discard)
        self._drop(template_id)

    def _drop(self, template_id: str) -> None:
        self._kept.pop(template_id, None)
        for sandbox in self._ready.pop(template_id, ()):
            self._discard_soon(sandbox)

    def _discard_soon(self, sandbox: Sandbox) -> None:
        task = asyncio.create_task(self._discard(sandbox))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    def remove(self, sandbox: Sandbox) -> None:
        """Forget a pooled sandbox that has ended."""
        ready = self._ready.get(sandbox.template.template_id)
        if ready is not None and sandbox in ready:
            ready.remove(sandbox)
            self.warm(sandbox.template)

    def count(self, template: Template) -> int:
        """How many sandboxes of the template are ready."""
        return len(self._ready.get(template.template_id, ()))

    def sandboxes(self) -> list[Sandbox]:
        """All that are ready."""
        return [sandbox for ready in self._ready.values() for sandbox in ready]

    async def close(self) -> None:
        """Stop refilling, and discard what is ready."""
        self._running = False
        self._wanted.clear()
        fillers = [*self._fillers.values(), *self._ending]
        for filler in fillers:
            filler.cancel()
        await asyncio.gather(*fillers, return_exceptions=True)
        sandboxes = self.sandboxes()
        self._ready.clear()
        await asyncio.gather(*self._discarding, *(self._discard(each) for each in sandboxes))

    async def _fill(self, template_id: str) -> None:
        loop = asyncio.get_running_loop()
        while len(self._ready.setdefault(template_id, deque())) < self._size:
            wait = self._taken_at + _QUIET_SECONDS - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            template = self._wanted[template_id]
            try:
                sandbox = await self._boot(template)
            except Exception as error:  # whatever it is, the pool must go on
                log.warning("pool.boot_failed", template=template_id, error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not self.put(sandbox):
                await self._discard(sandbox)
