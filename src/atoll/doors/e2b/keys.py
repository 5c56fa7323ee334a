"""`/api-keys`: the keys of a team, for the holder of an access token."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials, choose_team
from atoll.doors.e2b.models import NameBody, describe_mask, format_moment
from atoll.store.accounts import Accounts
from atoll.store.keys import ApiKey


class KeyRoutes:
    """The routes of API keys. Like E2B's, they take no API key as credential."""

    def __init__(self, accounts: Accounts, credentials: Credentials) -> None:
        self._accounts = accounts
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        return [
            Route("/api-keys", self._list, methods=["GET"]),
            Route("/api-keys", self._create, methods=["POST"]),
            Route("/api-keys/{key_id}", self._rename, methods=["PATCH"]),
            Route("/api-keys/{key_id}", self._revoke, methods=["DELETE"]),
        ]

    async def _find_team(self, request: Request) -> str:
        return choose_team(request, await self._credentials.find_token(request))

    async def _list(self, request: Request) -> Response:
        team = await self._find_team(request)
        return JSONResponse([_describe(each) for each in await self._accounts.keys.list(team)])

    async def _create(self, request: Request) -> Response:
        token = await self._credentials.find_token(request)
        team = choose_team(request, token)
        body = await parse_body(request, NameBody)
        made, secret = await self._accounts.keys.create(team, body.name, token_id=token.token_id)
        return JSONResponse({**_describe(made), "key": secret}, status_code=201)

    async def _rename(self, request: Request) -> Response:
        team = await self._find_team(request)
        body = await parse_body(request, NameBody)
        changed = await self._accounts.keys.rename(team, request.path_params["key_id"], body.name)
        return JSONResponse(_describe(changed))

    async def _revoke(self, request: Request) -> Response:
        team = await self._find_team(request)
        await self._accounts.keys.revoke(request.path_params["key_id"], team_id=team)
        return Response(status_code=204)


def _describe(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "name": key.name,
        "mask": describe_mask(key.mask),
        "createdAt": format_moment(key.created_at),
        "createdBy": None,
        "lastUsed": None,
    }
