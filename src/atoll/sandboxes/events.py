"""The events of sandboxes' lives: announced here and nowhere else."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from atoll.sandboxes.logbook import Logbook
from atoll.store.batches import BatchWriter
from atoll.store.events import EventRow, EventStore
from atoll.store.sandboxes import SandboxRow

_EXECUTIONS = uuid.UUID("6d9c7c4e-6f0b-4b52-9a44-3b0b8f0d8f65")


class EventType(StrEnum):
    """What can happen to a sandbox that has an owner."""

    CREATED = "created"
    UPDATED = "updated"
    """Its deadline, or what it may reach, was changed."""
    PAUSED = "paused"
    RESUMED = "resumed"
    CHECKPOINTED = "checkpointed"
    """A snapshot was taken of it."""
    KILLED = "killed"
    """It ended, for whatever reason."""


Listener = Callable[[EventRow], None]


class Lifecycle:
    """Takes events, tells whoever listens, and keeps them."""

    def __init__(self, store: EventStore, logbook: Logbook) -> None:
        self.logbook = logbook
        """Where events are written down for the sandbox's owner to read."""
        self._store = store
        self._writer = BatchWriter(store.add, linger=0)
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have a function called with every event, before it is stored."""
        self._listeners.append(listener)

    def announce(
        self, kind: EventType, row: SandboxRow, *, reason: str = "", **data: object
    ) -> None:
        """Something happened to a sandbox; nothing to tell when it has no owner.

        `data` goes into the event as it is, `reason` into the sandbox's log only.
        """
        if row.team_id is None:
            return
        template = row.record["template"]
        now = time.time()
        event = EventRow(
            event_id=str(uuid.uuid4()),
            team_id=row.team_id,
            sandbox_id=row.sandbox_id,
            template_id=template["template_id"],
            build_id=template["build_id"],
            # One per start: the same sandbox gets another when it is resumed.
            execution_id=str(uuid.uuid5(_EXECUTIONS, f"{row.sandbox_id}/{row.started_at}")),
            type=kind.value,
            at=now,
            data={**_execution(kind, row, now), **data},
        )
        fields = {"reason": reason} if reason else {}
        self.logbook.record(
            row.sandbox_id,
            f"Sandbox {kind.value}",
            logger="sandbox",
            event_type=f"sandbox_{kind.value}",
            **fields,
            **data,
        )
        self._writer.add(event)
        for listener in self._listeners:
            listener(event)

    async def find(
        self,
        team_id: str,
        *,
        sandbox_id: str | None = None,
        types: Collection[EventType] = (),
        oldest_first: bool = False,
        offset: int = 0,
        limit: int = 10,
    ) -> list[EventRow]:
        """The events of a team, or of one of its sandboxes. No types means all."""
        await self.flush()
        return await self._store.find(
            team_id,
            sandbox_id=sandbox_id,
            types=[kind.value for kind in types],
            oldest_first=oldest_first,
            offset=offset,
            limit=limit,
        )

    async def flush(self) -> None:
        """Wait until all that was announced is stored."""
        await self._writer.flush()

    async def close(self) -> None:
        """Store what is waiting."""
        await self._writer.close()


def _execution(kind: EventType, row: SandboxRow, now: float) -> dict[str, Any]:
    """What has been used, with the events that end a run."""
    if kind not in (EventType.KILLED, EventType.PAUSED) or row.started_at is None:
        return {}
    resources = row.record["template"]["resources"]
    return {
        "execution": {
            "started_at": format_moment(row.started_at),
            "vcpu_count": resources["cpu_count"],
            "memory_mb": resources["memory_mb"],
            "execution_time": round(1000 * max(0.0, now - row.started_at)),
        }
    }


def format_moment(seconds: float) -> str:
    """A moment (seconds since the epoch) in RFC 3339 form."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
