"""What sandboxes used over the last day, and how many of them each team had.

A thousand sandboxes make 17 million samples a day. After an hour only one sample a minute is kept:
that leaves 2 million rows, some 250 MB, for a thousand sandboxes that live all day.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Delete, Insert, Select, Table, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from atoll.store.database import Database
from atoll.store.tables import sandbox_metrics, team_metrics

FINE_SECONDS = 3600
"""How long every sample is kept."""


@dataclass(frozen=True, slots=True)
class SandboxSample:
    """What one sandbox used at a moment. Sizes in bytes."""

    sandbox_id: str
    at: int
    """Seconds since the epoch."""
    lasting: bool
    """Whether it is kept for the whole time, not for an hour only."""
    cpu_count: int
    cpu_percent: float
    """Of all its processors together."""
    memory_used: int
    memory_total: int
    memory_cache: int
    disk_used: int
    disk_total: int


@dataclass(frozen=True, slots=True)
class TeamSample:
    """How many sandboxes a team had."""

    team_id: str
    at: int
    """Seconds since the epoch."""
    concurrent: int
    """The most at the same time since the last sample."""
    start_rate: float
    """Sandboxes started per second since the last sample."""


class MetricStore:
    """Keeps samples."""

    def __init__(self, database: Database, *, retention: float) -> None:
        """`retention` is in seconds."""
        self._database = database
        self._retention = retention

    async def add_sandboxes(self, samples: Sequence[SandboxSample]) -> None:
        """Write samples; a second one of the same second is left out."""
        rows = [asdict(sample) for sample in samples]

        def work(connection: Connection) -> None:
            connection.execute(_insert(connection, sandbox_metrics), rows)

        await self._database.run(work)

    async def add_teams(self, samples: Sequence[TeamSample]) -> None:
        """Write samples; a second one of the same second is left out."""
        rows = [asdict(sample) for sample in samples]

        def work(connection: Connection) -> None:
            connection.execute(_insert(connection, team_metrics), rows)

        await self._database.run(work)

    async def sandbox(
        self, sandbox_id: str, start: int | None, end: int | None
    ) -> list[SandboxSample]:
        """The samples from `start` to `end` (both included), oldest first."""
        table = sandbox_metrics.c
        query = select(sandbox_metrics).where(table.sandbox_id == sandbox_id, table.at >= self._old)
        if start is not None:
            query = query.where(table.at >= start)
        if end is not None:
            query = query.where(table.at <= end)
        return await self._samples(query.order_by(table.at))

    async def newest(self, sandbox_ids: Collection[str]) -> list[SandboxSample]:
        """The newest sample of each."""
        table = sandbox_metrics.c
        newest = (
            select(table.sandbox_id, func.max(table.at).label("at"))
            .where(table.sandbox_id.in_(sandbox_ids))
            .group_by(table.sandbox_id)
            .subquery()
        )
        same = (table.sandbox_id == newest.c.sandbox_id) & (table.at == newest.c.at)
        return await self._samples(select(sandbox_metrics).join(newest, same))

    async def team(self, team_id: str, start: int | None, end: int | None) -> list[TeamSample]:
        """The samples from `start` to `end` (both included), oldest first."""
        table = team_metrics.c
        query = select(team_metrics).where(table.team_id == team_id, table.at >= self._old)
        if start is not None:
            query = query.where(table.at >= start)
        if end is not None:
            query = query.where(table.at <= end)
        query = query.order_by(table.at)
        rows = await self._database.run(lambda c: c.execute(query).mappings().all())
        return [TeamSample(**row) for row in rows]

    async def prune(self) -> None:
        """Remove what is too old."""
        now = time.time()
        table = sandbox_metrics.c
        # Each on its own, so that others get their turn on the database's thread in between.
        await self._delete(
            delete(sandbox_metrics).where(~table.lasting, table.at < now - FINE_SECONDS)
        )
        await self._delete(delete(sandbox_metrics).where(table.lasting, table.at < self._old))
        await self._delete(delete(team_metrics).where(team_metrics.c.at < self._old))

    @property
    def _old(self) -> float:
        return time.time() - self._retention

    async def _delete(self, statement: Delete) -> None:
        await self._database.run(lambda connection: connection.execute(statement))

    async def _samples(self, query: Select[tuple[object, ...]]) -> list[SandboxSample]:
        rows = await self._database.run(lambda c: c.execute(query).mappings().all())
        return [SandboxSample(**row) for row in rows]


def _insert(connection: Connection, table: Table) -> Insert:
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
