"""Webhooks, and the deliveries that wait for them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from atoll.errors import Exhausted, NotFound
from atoll.store.database import Database
from atoll.store.events import EventRow, read_event, select_events
from atoll.store.tables import deliveries, events, webhooks

_MOST_PER_TEAM = 20


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events of a team go."""

    webhook_id: str
    team_id: str
    name: str
    url: str
    enabled: bool
    types: tuple[str, ...]
    secret: str
    created_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that waits to be delivered."""

    number: int
    webhook: Webhook
    event: EventRow
    failures: int
    """How often it was tried in vain."""


class WebhookStore:
    """Keeps webhooks and what waits for them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, team_id: str, *, name: str, url: str, enabled: bool, types: list[str], secret: str
    ) -> Webhook:
        """Make a webhook. Raises `Exhausted` when the team has twenty."""
        webhook_id = str(uuid.uuid4())

        def work(connection: Connection) -> Webhook:
            mine = select(func.count()).where(webhooks.c.team_id == team_id)
            if (connection.scalar(mine) or 0) >= _MOST_PER_TEAM:
                raise Exhausted(
                    f"the team has its {_MOST_PER_TEAM} webhooks already", remedy="delete one"
                )
            values = {
                "webhook_id": webhook_id,
                "team_id": team_id,
                "name": name,
                "url": url,
                "enabled": enabled,
                "types": types,
                "secret": secret,
                "created_at": time.time(),
            }
            connection.execute(insert(webhooks).values(values))
            return _read(values)

        return await self._database.run(work)

    async def list(self, team_id: str) -> list[Webhook]:
        """The webhooks of a team, oldest first."""
        query = select(webhooks).where(webhooks.c.team_id == team_id)
        query = query.order_by(webhooks.c.created_at)
        rows = await self._database.run(lambda c: c.execute(query).mappings().all())
        return [_read(row) for row in rows]

    async def get(self, team_id: str, webhook_id: str) -> Webhook:
        """One webhook of a team. Raises `NotFound`."""
        query = select(webhooks).where(
            webhooks.c.team_id == team_id, webhooks.c.webhook_id == webhook_id
        )
        row = await self._database.run(lambda c: c.execute(query).mappings().first())
        if row is None:
            raise _unknown(webhook_id)
        return _read(row)

    async def change(self, team_id: str, webhook_id: str, values: Mapping[str, object]) -> Webhook:
        """Replace some columns. Raises `NotFound`."""
        if values:
            change = update(webhooks).where(
                webhooks.c.team_id == team_id, webhooks.c.webhook_id == webhook_id
            )
            await self._database.run(lambda c: c.execute(change.values(dict(values))))
        return await self.get(team_id, webhook_id)

    async def delete(self, team_id: str, webhook_id: str) -> None:
        """Remove a webhook and what waits for it. Raises `NotFound`."""

        def work(connection: Connection) -> None:
            gone = delete(webhooks).where(
                webhooks.c.team_id == team_id, webhooks.c.webhook_id == webhook_id
            )
            if not connection.execute(gone).rowcount:
                raise _unknown(webhook_id)
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))

        await self._database.run(work)

    # -- deliveries --------------------------------------------------------------------------

    async def due(self, now: float) -> dict[str, str]:
        """The webhooks for which something is due, those that wait longest first, and whose."""
        waiting = func.min(deliveries.c.due_at)
        query = (
            select(webhooks.c.webhook_id, webhooks.c.team_id)
            .join(deliveries, deliveries.c.webhook_id == webhooks.c.webhook_id)
            .where(deliveries.c.due_at <= now)
            .group_by(webhooks.c.webhook_id, webhooks.c.team_id)
            .order_by(waiting)
        )
        rows = await self._database.run(lambda c: c.execute(query).all())
        return {row.webhook_id: row.team_id for row in rows}

    async def next_due(self, now: float) -> float | None:
        """When the next delivery that is not due yet will be; seconds since the epoch."""
        query = select(func.min(deliveries.c.due_at)).where(deliveries.c.due_at > now)
        moment = await self._database.run(lambda connection: connection.scalar(query))
        return None if moment is None else float(moment)

    async def next_delivery(self, webhook_id: str) -> Delivery | None:
        """The delivery that has been due for longest; None when nothing is."""
        order = (deliveries.c.due_at, deliveries.c.number)
        due = (
            select(deliveries)
            .where(deliveries.c.webhook_id == webhook_id, deliveries.c.due_at <= time.time())
            .order_by(*order)
            .limit(1)
        )

        def work(connection: Connection) -> Delivery | None:
            while (row := connection.execute(due).mappings().first()) is not None:
                hook = connection.execute(
                    select(webhooks).where(webhooks.c.webhook_id == webhook_id, webhooks.c.enabled)
                )
                found = connection.execute(
                    select_events().where(events.c.event_id == row["event_id"])
                )
                webhook, event = hook.mappings().first(), found.mappings().first()
                if webhook is not None and event is not None:
                    return Delivery(
                        row["number"], _read(webhook), read_event(event), row["failures"]
                    )
                # Switched off meanwhile, or so old that the event is gone.
                connection.execute(delete(deliveries).where(deliveries.c.number == row["number"]))
            return None

        return await self._database.run(work)

    async def finish(self, delivery: Delivery) -> None:
        """It was delivered, or given up."""
        done = delete(deliveries).where(deliveries.c.number == delivery.number)
        await self._database.run(lambda connection: connection.execute(done))

    async def postpone(self, delivery: Delivery, seconds: float) -> None:
        """It failed: have it tried again."""
        change = update(deliveries).where(deliveries.c.number == delivery.number)
        change = change.values(failures=delivery.failures + 1, due_at=time.time() + seconds)
        await self._database.run(lambda connection: connection.execute(change))


def _unknown(webhook_id: str) -> NotFound:
    return NotFound(f"webhook {webhook_id!r} was not found")


def _read(row: Mapping[Any, Any]) -> Webhook:
    return Webhook(**{**row, "types": tuple(row["types"])})
