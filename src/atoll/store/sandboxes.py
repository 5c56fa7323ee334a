"""What must be known about sandboxes after a restart, and how each of them ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from atoll.store.database import Database
from atoll.store.tables import sandboxes


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """One sandbox, as stored."""

    sandbox_id: str
    state: str
    """`pooled`, `running` or `ended`."""
    created_at: float
    record: Mapping[str, Any]
    """What the core wants back: JSON."""
    team_id: str | None = None
    started_at: float | None = None
    end_at: float | None = None
    ended_at: float | None = None
    end_reason: str | None = None


class SandboxStore:
    """Keeps one row per sandbox, the ended ones included."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, row: SandboxRow) -> None:
        """Insert the row, or replace the one that is there, unless that has ended."""
        values = {
            "state": row.state,
            "team_id": row.team_id,
            "created_at": row.created_at,
            "started_at": row.started_at,
            "end_at": row.end_at,
            "record": dict(row.record),
        }

        def work(connection: Connection) -> None:
            known = sandboxes.c.sandbox_id == row.sandbox_id
            change = update(sandboxes).where(known, sandboxes.c.state != "ended")
            if connection.execute(change.values(values)).rowcount:
                return
            if connection.scalar(select(sandboxes.c.state).where(known)) is None:
                connection.execute(insert(sandboxes).values(sandbox_id=row.sandbox_id, **values))

        await self._database.run(work)

    async def set_end_at(self, sandbox_id: str, end_at: float) -> None:
        """Move the deadline."""
        change = update(sandboxes).where(sandboxes.c.sandbox_id == sandbox_id)
        await self._database.run(lambda c: c.execute(change.values(end_at=end_at)))

    async def record_end(
        self, sandbox_id: str, reason: str, strip: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        """Write down that a sandbox ended, when, and why. The first end counts.

        `strip` gives what is to be left of the record.
        """
        live = (sandboxes.c.sandbox_id == sandbox_id) & (sandboxes.c.state != "ended")

        def work(connection: Connection) -> None:
            record = connection.scalar(select(sandboxes.c.record).where(live))
            if record is not None:
                values = {"state": "ended", "ended_at": time.time(), "end_reason": reason}
                change = update(sandboxes).where(live)
                connection.execute(change.values(record=strip(record), **values))

        await self._database.run(work)

    async def prune(self, seconds: float) -> None:
        """Forget the sandboxes that ended so long ago."""
        old = sandboxes.c.ended_at < time.time() - seconds
        await self._database.run(lambda c: c.execute(delete(sandboxes).where(old)))

    async def live(self) -> list[SandboxRow]:
        """All that had not ended when last heard of."""
        # The states by name, as the index can't be searched for what is not in it.
        query = select(sandboxes).where(sandboxes.c.state.in_(("pooled", "running")))
        rows = await self._database.run(
            lambda connection: connection.execute(query).mappings().all()
        )
        return [SandboxRow(**row) for row in rows]

    async def get(self, sandbox_id: str) -> SandboxRow | None:
        """One sandbox, ended or not."""
        query = select(sandboxes).where(sandboxes.c.sandbox_id == sandbox_id)
        row = await self._database.run(lambda c: c.execute(query).mappings().first())
        return SandboxRow(**row) if row is not None else None
