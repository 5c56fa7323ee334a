"""Whose request to the control plane it is, and whether it comes too often.

`X-API-Key` opens one team. `Authorization: Bearer` with an access token opens each of the token's
teams, named by `X-Team-ID`; without that header it is the token's first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import Request

from atoll.doors.limits import Limits
from atoll.errors import Forbidden, Unauthenticated
from atoll.store.accounts import Accounts
from atoll.store.tokens import AccessToken

T = TypeVar("T")


class Credentials:
    """Finds the team that a request acts for."""

    def __init__(self, accounts: Accounts, limits: Limits) -> None:
        self._accounts = accounts
        self._limits = limits

    async def find_team(self, request: Request) -> str:
        """Return the id of the team that the request acts for.

        Raises `Unauthenticated`, `Forbidden` for a team that is not the token's, `RateLimited`.
        """
        key = request.headers.get("x-api-key")
        if not key:
            if not request.headers.get("authorization"):
                raise Unauthenticated(
                    "the API key is missing", remedy="send it in the header X-API-Key"
                )
            return choose_team(request, await self.find_token(request))
        keys = self._accounts.keys
        team = await self._check(request, key, keys.has_seen, keys.authenticate)
        self._limits.requests.take(key)
        return team

    async def find_creator(self, request: Request) -> str:
        """Do as `find_team` does, for a request that makes a sandbox."""
        team = await self.find_team(request)
        self._limits.creates.take(request.headers.get("x-api-key") or read_bearer(request))
        return team

    async def find_token(self, request: Request) -> AccessToken:
        """Return the access token that was sent. Raises `Unauthenticated`, `RateLimited`."""
        secret = read_bearer(request)
        tokens = self._accounts.tokens
        token = await self._check(request, secret, tokens.has_seen, tokens.authenticate)
        self._limits.requests.take(secret)
        return token

    async def _check(
        self,
        request: Request,
        secret: str,
        has_seen: Callable[[str], bool],
        authenticate: Callable[[str], Awaitable[T]],
    ) -> T:
        # Whoever has come in before is let in on, whatever strangers at the same address do.
        address = _address(request)
        if not has_seen(secret):
            self._limits.failures.check(address)
        try:
            return await authenticate(secret)
        except Unauthenticated:
            self._limits.failures.take(address)
            raise


def read_bearer(request: Request) -> str:
    """Return the token of `Authorization: Bearer`. Raises `Unauthenticated` when there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(
            "the access token is missing", remedy="send it as `Authorization: Bearer sk_e2b_…`"
        )
    return token.strip()


def choose_team(request: Request, token: AccessToken) -> str:
    """Return the id of the team that the request names, or the token's first one.

    Raises `Forbidden` for any other team, be it real or not.
    """
    wanted = request.headers.get("x-team-id")
    for team in token.teams:
        if wanted is None or wanted == team.team_id:
            return team.team_id
    raise Forbidden(f"the access token does not act for a team {wanted!r}")


def _address(request: Request) -> str:
    host = request.client.host if request.client is not None else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6:  # whoever has one IPv6 address has all of its network
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
