"""`/teams` and `/access-tokens`: what an access token acts for, and tokens of the same reach."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials, read_bearer
from atoll.doors.e2b.models import NameBody, describe_mask, format_moment
from atoll.store.accounts import Accounts


class TokenRoutes:
    """The routes of access tokens and their teams."""

    def __init__(self, accounts: Accounts, credentials: Credentials) -> None:
        self._accounts = accounts
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        return [
            Route("/teams", self._list_teams, methods=["GET"]),
            Route("/access-tokens", self._create, methods=["POST"]),
            Route("/access-tokens/{token_id}", self._revoke, methods=["DELETE"]),
        ]

    async def _list_teams(self, request: Request) -> Response:
        token = await self._credentials.find_token(request)
        keys = await self._accounts.tokens.derive_keys(token, read_bearer(request))
        teams = [
            {
                "teamID": team.team_id,
                "name": team.name,
                "apiKey": keys[team.team_id],
                "isDefault": team == token.teams[0],
            }
            for team in token.teams
        ]
        return JSONResponse(teams)

    async def _create(self, request: Request) -> Response:
        token = await self._credentials.find_token(request)
        body = await parse_body(request, NameBody)
        teams = [team.team_id for team in token.teams]
        made, secret = await self._accounts.tokens.create(body.name, teams, token_id=token.token_id)
        answer = {
            "id": made.token_id,
            "name": made.name,
            "token": secret,
            "mask": describe_mask(made.mask),
            "createdAt": format_moment(made.created_at),
        }
        return JSONResponse(answer, status_code=201)

    async def _revoke(self, request: Request) -> Response:
        token = await self._credentials.find_token(request)
        teams = [team.team_id for team in token.teams]
        await self._accounts.tokens.revoke(request.path_params["token_id"], within=teams)
        return Response(status_code=204)
