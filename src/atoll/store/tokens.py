"""Access tokens: they manage the keys of one team or several, and act for any of them.

A token is `sk_e2b_` and 40 hexadecimal digits, as E2B's. There are no users here, so what E2B ties
to a person is tied to the token: the teams it may act for.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from atoll.errors import Exhausted, InvalidInput, NotFound, Unauthenticated
from atoll.store.database import Database
from atoll.store.keys import KEY_PREFIX, check_name, check_reach, key_row
from atoll.store.secret import (
    Mask,
    derive_secret,
    digest_secret,
    hint_secret,
    new_secret,
    read_mask,
)
from atoll.store.tables import access_token_teams, access_tokens, api_keys, teams
from atoll.store.teams import Team

TOKEN_PREFIX = "sk_e2b_"  # noqa: S105
_MOST_PER_TEAM = 1000


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token, without its secret."""

    token_id: str
    name: str
    mask: Mask
    created_at: datetime
    teams: tuple[Team, ...]
    """Those that it may act for, its default first. Empty when they were all revoked."""


class TokenStore:
    """Makes, checks, lists and revokes access tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: set[str] = set()

    async def create(
        self, name: str, team_ids: Sequence[str], *, token_id: str | None = None
    ) -> tuple[AccessToken, str]:
        """Make a token for these teams and return it with its secret, which is seen only now.

        `token_id` is the token that asks for it. Raises `InvalidInput`, `Exhausted`, and
        `Unauthenticated` when that one was revoked since it was looked at.
        """
        check_name(name)
        if not team_ids:
            raise InvalidInput("an access token needs at least one team", remedy="name a team")
        secret = new_secret(TOKEN_PREFIX)
        row = {
            "token_id": str(uuid.uuid4()),
            "name": name,
            "digest": digest_secret(secret),
            "hint": hint_secret(secret, TOKEN_PREFIX),
            "created_at": time.time(),
        }
        members = [
            {"token_id": row["token_id"], "team_id": team_id, "position": position}
            for position, team_id in enumerate(team_ids)
        ]

        def work(connection: Connection) -> AccessToken:
            _check_room(connection, team_ids)
            connection.execute(insert(access_tokens).values(row))
            connection.execute(insert(access_token_teams), members)
            if token_id is not None:
                check_reach(connection, token_id, team_ids)
            (made,) = _list(connection, access_tokens.c.token_id == row["token_id"])
            return made

        return await self._database.run(work), secret

    async def list(self) -> list[AccessToken]:
        """All tokens, oldest first."""
        return await self._database.run(_list)

    async def revoke(self, token_id: str, *, within: Collection[str] | None = None) -> None:
        """Make a token worthless, and the keys that were given out for it.

        With `within`, only a token all of whose teams are among these. Raises `NotFound`.
        """

        def work(connection: Connection) -> None:
            found = _list(connection, access_tokens.c.token_id == token_id)
            belongs = {each.team_id for token in found for each in token.teams}
            if not found or (within is not None and not (belongs and belongs <= set(within))):
                raise NotFound(f"no access token {token_id!r}")
            derived = select(teams.c.team_id)
            keys = [_key_id(token_id, str(each)) for each in connection.scalars(derived)]
            connection.execute(delete(api_keys).where(api_keys.c.key_id.in_(keys)))
            for table in (access_token_teams, access_tokens):
                connection.execute(delete(table).where(table.c.token_id == token_id))

        await self._database.run(work)

    def has_seen(self, secret: str) -> bool:
        """Whether the token was good when last asked for, as far as this process remembers."""
        return digest_secret(secret) in self._seen

    async def authenticate(self, secret: str) -> AccessToken:
        """Return the token. Raises `Unauthenticated` when there is no such, or no team is left."""
        digest = digest_secret(secret)
        found = await self._database.run(
            lambda connection: _list(connection, access_tokens.c.digest == digest)
        )
        if not found or not found[0].teams:
            self._seen.discard(digest)
            raise Unauthenticated(
                "the access token is not known here", remedy="`atoll tokens create` makes one"
            )
        self._seen.add(digest)
        return found[0]

    async def derive_keys(self, token: AccessToken, secret: str) -> dict[str, str]:
        """The API key of each of a token's teams, by the team's id: the same ones every time.

        E2B's command line wants a working key of each team; as ours are stored hashed, it gets
        keys of the token's own. They follow from the token, and are revoked with it. Raises
        `Unauthenticated` when it was revoked since it was looked at.
        """
        keys = {
            each.team_id: derive_secret(KEY_PREFIX, secret, f"API key of team {each.team_id}")
            for each in token.teams
        }

        def work(connection: Connection) -> None:
            for team_id, key in keys.items():
                key_id = _key_id(token.token_id, team_id)
                known = select(api_keys.c.key_id).where(api_keys.c.key_id == key_id)
                if connection.scalar(known) is None:
                    row = key_row(key_id, team_id, f"of token {token.token_id}", key)
                    connection.execute(insert(api_keys).values(row))
            check_reach(connection, token.token_id, keys)

        await self._database.run(work)
        return keys


def _key_id(token_id: str, team_id: str) -> str:
    return str(uuid.uuid5(uuid.UUID(token_id), team_id))


def _check_room(connection: Connection, team_ids: Sequence[str]) -> None:
    # Of each team, so that none can use up what others need.
    table = access_token_teams.c
    counts = select(func.count()).where(table.team_id.in_(team_ids)).group_by(table.team_id)
    if max(connection.scalars(counts), default=0) >= _MOST_PER_TEAM:
        raise Exhausted(
            f"the team has {_MOST_PER_TEAM} access tokens already", remedy="revoke some"
        )


def _list(connection: Connection, *known: Any) -> list[AccessToken]:
    query = select(access_tokens).where(*known).order_by(access_tokens.c.created_at)
    rows = connection.execute(query).all()
    members = (
        select(access_token_teams.c.token_id, teams)
        .join(teams)
        .where(access_token_teams.c.token_id.in_([row.token_id for row in rows]))
        .order_by(access_token_teams.c.position)
    )
    belongs: dict[str, list[Team]] = {row.token_id: [] for row in rows}
    for row in connection.execute(members):
        moment = datetime.fromtimestamp(row.created_at, UTC)
        belongs[row.token_id].append(Team(row.team_id, row.name, moment))
    return [
        AccessToken(
            token_id=row.token_id,
            name=row.name,
            mask=read_mask(TOKEN_PREFIX, row.hint),
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            teams=tuple(belongs[row.token_id]),
        )
        for row in rows
    ]
