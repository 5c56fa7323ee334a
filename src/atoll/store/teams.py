"""Teams: whose keys open what. A sandbox belongs to one, and no other ever learns of it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, func, insert, select

from atoll.errors import Conflict, InvalidInput, NotFound
from atoll.store.database import Database
from atoll.store.tables import access_token_teams, api_keys, teams

DEFAULT_TEAM = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Team:
    """A team."""

    team_id: str
    name: str
    created_at: datetime
    keys: int = 0
    """How many API keys it has."""


class TeamStore:
    """Makes and lists teams, and shuts them out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, name: str) -> str:
        """Return the id of the team of that name, making it when new. Raises `InvalidInput`."""

        def work(connection: Connection) -> str:
            found = connection.scalar(select(teams.c.team_id).where(teams.c.name == name))
            return str(found) if found is not None else _insert(connection, name)

        return await self._database.run(work)

    async def create(self, name: str) -> str:
        """Make a team and return its id. Raises `Conflict` when it exists, `InvalidInput`."""

        def work(connection: Connection) -> str:
            if connection.scalar(select(teams.c.team_id).where(teams.c.name == name)) is not None:
                raise Conflict(f"there is a team {name!r} already", remedy="choose another name")
            return _insert(connection, name)

        return await self._database.run(work)

    async def list(self) -> list[Team]:
        """All teams, oldest first."""
        query = (
            select(teams, func.count(api_keys.c.key_id).label("keys"))
            .outerjoin(api_keys)
            .group_by(*teams.c)
            .order_by(teams.c.created_at)
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [
            Team(row.team_id, row.name, datetime.fromtimestamp(row.created_at, UTC), row.keys)
            for row in rows
        ]

    async def find(self, names: Iterable[str]) -> Sequence[str]:
        """The ids of the teams of these names, in their order. Raises `NotFound`."""
        known = {team.name: team.team_id for team in await self.list()}
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in known:
                raise NotFound(f"no team {name!r}", remedy="`atoll teams list` shows the names")
        return [known[name] for name in wanted]

    async def revoke(self, name: str) -> None:
        """Revoke every key of a team and take the team out of every access token.

        The team itself stays, and so does what it owns. Raises `NotFound`.
        """
        (team_id,) = await self.find([name])

        def work(connection: Connection) -> None:
            connection.execute(delete(api_keys).where(api_keys.c.team_id == team_id))
            members = access_token_teams.c.team_id == team_id
            connection.execute(delete(access_token_teams).where(members))

        await self._database.run(work)


def _insert(connection: Connection, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be the name of a team",
            remedy="take up to 64 letters, digits, dots, dashes and underscores",
        )
    team_id = str(uuid.uuid4())
    connection.execute(insert(teams).values(team_id=team_id, name=name, created_at=time.time()))
    return team_id
