"""Creates that may be repeated: with the same key the same sandbox comes back, not a second one.

What must be known for it is part of the sandbox itself, so it is written down with it in one
transaction, outlives a restart, and takes room as long as the sandbox lives and no longer. After
its end the key is free again: whoever repeats a create then wants a sandbox that works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from atoll.errors import RequestMismatch
from atoll.sandboxes.model import Idempotency, Sandbox


class Repeats:
    """The creates with a key that are under way."""

    def __init__(self) -> None:
        self._making: dict[tuple[str, str], tuple[Idempotency, asyncio.Task[Sandbox]]] = {}

    async def once(
        self,
        team_id: str,
        wanted: Idempotency,
        *,
        made: Iterable[Sandbox],
        make: Callable[[], Coroutine[Any, Any, Sandbox]],
    ) -> Sandbox:
        """Return the sandbox of an earlier create with the key, or make it.

        `made` are the team's sandboxes. Who comes while it is being made waits for it; when that
        fails it fails for all of them, and the next one tries anew. It goes on when those who
        wait have left, as they will come again. Raises `RequestMismatch` when the key was used
        for something else.
        """
        name = (team_id, wanted.key)
        if name in self._making:
            earlier, task = self._making[name]
            _compare(earlier, wanted)
            return await asyncio.shield(task)
        for sandbox in made:
            if sandbox.idempotency is not None and sandbox.idempotency.key == wanted.key:
                _compare(sandbox.idempotency, wanted)
                return sandbox
        task = asyncio.create_task(make())
        self._making[name] = (wanted, task)
        task.add_done_callback(lambda _: self._making.pop(name))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = [task for _, task in self._making.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _compare(earlier: Idempotency, wanted: Idempotency) -> None:
    if earlier.fingerprint != wanted.fingerprint:
        raise RequestMismatch(
            f"the Idempotency-Key {wanted.key!r} was used for another request",
            remedy="take a new key for each request, and the same only to repeat one",
        )
