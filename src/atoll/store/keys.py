"""Teams and their API keys.

A key is `e2b_` and 40 hexadecimal digits, the form that the official SDKs accept; the database has
only its hash.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

from atoll.errors import Conflict, NotFound, Unauthenticated
from atoll.store.database import Database
from atoll.store.tables import api_keys, teams

DEFAULT_TEAM = "default"
_CACHE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret."""

    key_id: str
    team: str
    name: str
    hint: str
    """The last four digits, to tell keys apart."""
    created_at: datetime


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _ensure_team(connection: Connection, name: str) -> str:
    found = connection.scalar(select(teams.c.team_id).where(teams.c.name == name))
    if found is not None:
        return str(found)
    team_id = str(uuid.uuid4())
    connection.execute(insert(teams).values(team_id=team_id, name=name, created_at=time.time()))
    return team_id


class KeyStore:
    """Makes, checks, lists and revokes API keys."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, str]] = {}

    def create(self, *, name: str, team: str = DEFAULT_TEAM) -> str:
        """Make a key for a team (made when new) and return it: the only time it is seen."""
        key = "e2b_" + secrets.token_hex(20)

        def work(connection: Connection) -> None:
            team_id = _ensure_team(connection, team)
            taken = select(api_keys.c.key_id).where(
                api_keys.c.team_id == team_id, api_keys.c.name == name
            )
            if connection.scalar(taken) is not None:
                raise Conflict(
                    f"team {team!r} has a key named {name!r} already",
                    remedy="choose another name, or revoke that one first",
                )
            connection.execute(
                insert(api_keys).values(
                    key_id=str(uuid.uuid4()),
                    team_id=team_id,
                    name=name,
                    digest=_digest(key),
                    hint=key[-4:],
                    created_at=time.time(),
                )
            )

        self._database.transact(work)
        return key

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        query = (
            select(api_keys, teams.c.name.label("team")).join(teams).order_by(api_keys.c.created_at)
        )
        rows = self._database.transact(lambda connection: connection.execute(query).all())
        return [
            ApiKey(
                key_id=row.key_id,
                team=row.team,
                name=row.name,
                hint=row.hint,
                created_at=datetime.fromtimestamp(row.created_at, UTC),
            )
            for row in rows
        ]

    def revoke(self, key_id: str) -> None:
        """Make a key worthless; a running server follows within two seconds.

        Raises `NotFound` when there is no such key.
        """
        statement = delete(api_keys).where(api_keys.c.key_id == key_id)
        if not self._database.transact(lambda c: c.execute(statement).rowcount):
            raise NotFound(f"no key {key_id!r}", remedy="`atoll keys list` shows the ids")

    def is_valid(self, key: str) -> bool:
        """Whether the key would be accepted (for the command line)."""
        query = select(api_keys.c.key_id).where(api_keys.c.digest == _digest(key))
        return self._database.transact(lambda c: c.scalar(query)) is not None

    async def authenticate(self, key: str | None) -> str:
        """Return the id of the team that the key belongs to.

        Raises `Unauthenticated` when there is no such key.
        """
        if not key:
            raise Unauthenticated(
                "the API key is missing", remedy="send it in the header X-API-Key"
            )
        digest = _digest(key)
        now = time.monotonic()
        cached = self._cache.get(digest)
        if cached is not None and now - cached[0] < _CACHE_SECONDS:
            return cached[1]
        query = select(api_keys.c.team_id).where(api_keys.c.digest == digest)
        team_id = await self._database.run(lambda connection: connection.scalar(query))
        if team_id is None:
            self._cache.pop(digest, None)
            raise Unauthenticated(
                "the API key is not known here", remedy="`atoll keys create` makes one"
            )
        self._cache[digest] = (now, team_id)
        return str(team_id)
