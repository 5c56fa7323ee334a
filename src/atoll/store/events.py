"""The events of sandboxes' lives, and which of them are still to be delivered to webhooks."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, Select, delete, func, insert, select

from atoll.store.database import Database
from atoll.store.tables import deliveries, events, sandboxes, webhooks

log = structlog.get_logger(__name__)

PER_TEAM = 100_000
"""Events of one team that are kept, about."""
_MOST_WAITING = 1000
"""Deliveries that may wait for one webhook; what comes on top is not delivered."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened to a sandbox."""

    event_id: str
    team_id: str
    sandbox_id: str
    template_id: str
    build_id: str
    execution_id: str
    type: str
    at: float
    """Seconds since the epoch."""
    data: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The sandbox's, as long as that is remembered. It is not written down with every event:
    clients may make it as long as they like."""


def select_events() -> Select[Any]:
    """Begin a query for `read_event`."""
    known = events.c.sandbox_id == sandboxes.c.sandbox_id
    return select(events, sandboxes.c.record).outerjoin(sandboxes, known)


def read_event(row: Mapping[Any, Any]) -> EventRow:
    """An event from a row of `select_events`."""
    values = {name: row[name] for name in EventRow.__slots__ if name != "metadata"}
    return EventRow(**values, metadata=(row["record"] or {}).get("metadata", {}))


class EventStore:
    """Keeps events."""

    def __init__(self, database: Database, *, retention: float) -> None:
        """`retention` is in seconds."""
        self._database = database
        self._retention = retention

    async def add(self, batch: Sequence[EventRow]) -> None:
        """Write events, and with them what is to be delivered: both or neither."""
        rows = [_dump(event) for event in batch]
        teams = {event.team_id for event in batch}

        def work(connection: Connection) -> None:
            connection.execute(insert(events), rows)
            hooks = select(webhooks).where(webhooks.c.team_id.in_(teams), webhooks.c.enabled)
            for hook in connection.execute(hooks).mappings().all():
                wanted = [
                    event
                    for event in batch
                    if event.team_id == hook["team_id"] and event.type in hook["types"]
                ]
                _queue(connection, hook["webhook_id"], wanted)

        await self._database.run(work)

    async def find(
        self,
        team_id: str,
        *,
        sandbox_id: str | None,
        types: Collection[str],
        oldest_first: bool,
        offset: int,
        limit: int,
    ) -> list[EventRow]:
        """The events of a team, or of one of its sandboxes. No types means all."""
        table = events.c
        query = select_events().where(
            table.team_id == team_id, table.at >= time.time() - self._retention
        )
        if sandbox_id is not None:
            query = query.where(table.sandbox_id == sandbox_id)
        if types:
            query = query.where(table.type.in_(types))
        order = table.number if oldest_first else table.number.desc()
        query = query.order_by(order).offset(offset).limit(limit)
        rows = await self._database.run(lambda c: c.execute(query).mappings().all())
        return [read_event(row) for row in rows]

    async def prune(self) -> None:
        """Remove what is too old, and what a team has too many of."""
        table = events.c
        old = delete(events).where(table.at < time.time() - self._retention)

        def work(connection: Connection) -> None:
            connection.execute(old)
            for team_id in connection.scalars(select(table.team_id).distinct()).all():
                mine = table.team_id == team_id
                newest = select(table.number).where(mine).order_by(table.number.desc())
                last = connection.scalar(newest.offset(PER_TEAM).limit(1))
                if last is not None:
                    connection.execute(delete(events).where(mine, table.number <= last))

        await self._database.run(work)


def _dump(event: EventRow) -> dict[str, Any]:
    values = asdict(event)
    del values["metadata"]
    return values


def _queue(connection: Connection, webhook_id: str, wanted: Sequence[EventRow]) -> None:
    if not wanted:
        return
    waiting = select(func.count()).where(deliveries.c.webhook_id == webhook_id)
    room = max(0, _MOST_WAITING - (connection.scalar(waiting) or 0))
    if len(wanted) > room:
        log.warning("webhook.overrun", webhook_id=webhook_id, dropped=len(wanted) - room)
    rows = [
        {"webhook_id": webhook_id, "event_id": each.event_id, "failures": 0, "due_at": each.at}
        for each in wanted[:room]
    ]
    if rows:
        connection.execute(insert(deliveries), rows)
