"""API keys: each opens one team.

A key is `e2b_` and 40 hexadecimal digits, the form that the official SDKs accept.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from atoll.errors import Conflict, Exhausted, InvalidInput, NotFound, Unauthenticated
from atoll.store.database import Database
from atoll.store.secret import Mask, digest_secret, hint_secret, new_secret, read_mask
from atoll.store.tables import access_token_teams, api_keys, teams

KEY_PREFIX = "e2b_"
_CACHE_SECONDS = 2.0
_MAX_NAME = 64
_MOST_PER_TEAM = 1000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret."""

    key_id: str
    team: str
    """The team's name."""
    name: str
    mask: Mask
    created_at: datetime


class KeyStore:
    """Makes, checks, lists and revokes API keys."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, str]] = {}

    async def create(
        self, team_id: str, name: str, *, token_id: str | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key for a team and return it with its secret: the only time that is seen.

        `token_id` is the access token that asks for it. Raises `Conflict` when the team has a key
        of that name, `InvalidInput`, `Exhausted`, and `Unauthenticated` when the token was revoked
        since it was looked at.
        """
        check_name(name)
        secret = new_secret(KEY_PREFIX)
        key_id = str(uuid.uuid4())

        def work(connection: Connection) -> ApiKey:
            _check_free(connection, team_id, name)
            _check_room(connection, team_id)
            connection.execute(insert(api_keys).values(key_row(key_id, team_id, name, secret)))
            if token_id is not None:
                check_reach(connection, token_id, [team_id])
            return _find(connection, api_keys.c.key_id == key_id)

        return await self._database.run(work), secret

    async def list(self, team_id: str | None = None) -> list[ApiKey]:
        """All keys, or one team's, oldest first."""
        query = _select_keys()
        if team_id is not None:
            query = query.where(api_keys.c.team_id == team_id)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [_read(row) for row in rows]

    async def rename(self, team_id: str, key_id: str, name: str) -> ApiKey:
        """Give a team's key another name. Raises `NotFound`, `Conflict`, `InvalidInput`."""
        check_name(name)
        known = (api_keys.c.key_id == key_id) & (api_keys.c.team_id == team_id)

        def work(connection: Connection) -> ApiKey:
            if _find(connection, known, key_id).name != name:
                _check_free(connection, team_id, name)
                connection.execute(update(api_keys).where(known).values(name=name))
            return _find(connection, known)

        return await self._database.run(work)

    async def revoke(self, key_id: str, *, team_id: str | None = None) -> None:
        """Make a key worthless, at once here and within two seconds in other processes.

        Raises `NotFound` when there is no such key, or it is not that team's.
        """
        known = api_keys.c.key_id == key_id
        if team_id is not None:
            known &= api_keys.c.team_id == team_id

        def work(connection: Connection) -> None:
            if not connection.execute(delete(api_keys).where(known)).rowcount:
                raise _missing(key_id)

        await self._database.run(work)
        self._cache.clear()

    async def is_valid(self, secret: str) -> bool:
        """Whether the key would be accepted."""
        query = select(api_keys.c.key_id).where(api_keys.c.digest == digest_secret(secret))
        return await self._database.run(lambda c: c.scalar(query)) is not None

    def has_seen(self, secret: str) -> bool:
        """Whether the key was good when last asked for, as far as this process remembers."""
        return digest_secret(secret) in self._cache

    async def authenticate(self, secret: str) -> str:
        """Return the id of the team that the key opens.

        Raises `Unauthenticated` when there is no such key.
        """
        digest = digest_secret(secret)
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


def check_name(name: str) -> None:
    """Raise `InvalidInput` for what can't name a key or a token."""
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise InvalidInput(
            f"a name has from 1 to {_MAX_NAME} printable characters",
            remedy="give one that says what it is for",
        )


def check_reach(connection: Connection, token_id: str, team_ids: Collection[str]) -> None:
    """Raise `Unauthenticated` when an access token does not act for all of these teams any more.

    Between the moment a token is looked at and the one at which something is made for it, its
    holder can let as much time pass as he likes. To be called after the writing: from then on no
    other process writes, and the error takes back what was written.
    """
    table = access_token_teams.c
    query = select(func.count()).where(table.token_id == token_id, table.team_id.in_(team_ids))
    if connection.scalar(query) != len(team_ids):
        raise Unauthenticated("the access token was revoked")


def key_row(key_id: str, team_id: str, name: str, secret: str) -> dict[str, Any]:
    """The columns of a new key."""
    return {
        "key_id": key_id,
        "team_id": team_id,
        "name": name,
        "digest": digest_secret(secret),
        "hint": hint_secret(secret, KEY_PREFIX),
        "created_at": time.time(),
    }


def _select_keys() -> Any:
    return select(api_keys, teams.c.name.label("team")).join(teams).order_by(api_keys.c.created_at)


def _read(row: Any) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        team=row.team,
        name=row.name,
        mask=read_mask(KEY_PREFIX, row.hint),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )


def _find(connection: Connection, known: ColumnElement[bool], key_id: str = "") -> ApiKey:
    row = connection.execute(_select_keys().where(known)).first()
    if row is None:
        raise _missing(key_id)
    return _read(row)


def _missing(key_id: str) -> NotFound:
    return NotFound(f"no API key {key_id!r}", remedy="`atoll keys list` shows the ids")


def _check_free(connection: Connection, team_id: str, name: str) -> None:
    taken = select(api_keys.c.key_id).where(api_keys.c.team_id == team_id, api_keys.c.name == name)
    if connection.scalar(taken) is not None:
        raise Conflict(
            f"the team has a key named {name!r} already",
            remedy="choose another name, or revoke that one first",
        )


def _check_room(connection: Connection, team_id: str) -> None:
    query = select(func.count()).where(api_keys.c.team_id == team_id)
    if (connection.scalar(query) or 0) >= _MOST_PER_TEAM:
        raise Exhausted(f"the team has {_MOST_PER_TEAM} keys already", remedy="revoke some")
