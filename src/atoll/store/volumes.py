"""Which volumes there are, and whose they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from atoll.errors import Exhausted, InvalidInput
from atoll.store.database import Database
from atoll.store.tables import volumes


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume."""

    volume_id: str
    team_id: str
    name: str
    """One of its team's volumes has it."""
    created_at: datetime


class VolumeStore:
    """Keeps one row per volume."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, volume_id: str, team_id: str, name: str, *, most: int) -> Volume:
        """Add a volume. Raises `InvalidInput` for a name that is taken, as E2B does (400), and
        `Exhausted` when the team has `most` already."""
        created_at = time.time()

        def work(connection: Connection) -> None:
            of_team = volumes.c.team_id == team_id
            taken = select(volumes.c.volume_id).where(of_team, volumes.c.name == name)
            if connection.scalar(taken) is not None:
                raise InvalidInput(f"Volume with name '{name}' already exists")
            count = connection.scalar(select(func.count()).select_from(volumes).where(of_team))
            if count is not None and count >= most:
                raise Exhausted(
                    f"the team has its {most} volumes already",
                    remedy="destroy some, or have ATOLL_MAX_VOLUMES raised",
                )
            row = {"volume_id": volume_id, "team_id": team_id, "name": name}
            connection.execute(insert(volumes).values(**row, created_at=created_at))

        await self._database.run(work)
        return Volume(volume_id, team_id, name, datetime.fromtimestamp(created_at, UTC))

    async def get(self, volume_id: str) -> Volume | None:
        """One volume, of whatever team."""
        query = select(volumes).where(volumes.c.volume_id == volume_id)
        row = await self._database.run(lambda connection: connection.execute(query).first())
        return None if row is None else _load(row)

    async def list(self, team_id: str) -> list[Volume]:
        """All volumes of a team, the oldest first."""
        query = select(volumes).where(volumes.c.team_id == team_id).order_by(volumes.c.created_at)
        rows: Sequence[Row[Any]] = await self._database.run(lambda c: c.execute(query).all())
        return [_load(row) for row in rows]

    async def remove(self, volume_id: str) -> None:
        """Forget a volume."""
        statement = delete(volumes).where(volumes.c.volume_id == volume_id)
        await self._database.run(lambda connection: connection.execute(statement))


def _load(row: Row[Any]) -> Volume:
    created_at = datetime.fromtimestamp(row.created_at, UTC)
    return Volume(row.volume_id, row.team_id, row.name, created_at)
