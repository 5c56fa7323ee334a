"""`/events/webhooks`: where a team wants to hear of its sandboxes.

Routes, fields and statuses are those of E2B's documentation; its API description has none.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.destinations import Destinations
from atoll.doors.e2b.events import format_type, parse_type
from atoll.sandboxes.events import format_moment
from atoll.sandboxes.history import History
from atoll.store.webhooks import Webhook

_Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
_Secret = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00]*$")]
_Types = Annotated[list[str], Field(min_length=1, max_length=100)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class NewWebhookBody(_Body):
    """`POST /events/webhooks`."""

    name: _Name
    url: _Url
    enabled: bool = True
    events: _Types
    signatureSecret: _Secret


class WebhookChangeBody(_Body):
    """`PATCH /events/webhooks/{id}`: what is given is replaced."""

    name: _Name | None = None
    url: _Url | None = None
    enabled: bool | None = None
    events: _Types | None = None
    signatureSecret: _Secret | None = None


class WebhookRoutes:
    """The routes of webhooks."""

    def __init__(
        self, history: History, credentials: Credentials, destinations: Destinations
    ) -> None:
        self._history = history
        self._credentials = credentials
        self._destinations = destinations

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/events/webhooks/{webhook_id}"
        return [
            Route("/events/webhooks", self._create, methods=["POST"]),
            Route("/events/webhooks", self._list, methods=["GET"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._change, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
        ]

    async def _create(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, NewWebhookBody)
        self._destinations.check_url(body.url)
        made = await self._history.webhooks.create(
            team,
            name=body.name,
            url=body.url,
            enabled=body.enabled,
            types=_parse_types(body.events),
            secret=body.signatureSecret,
        )
        return JSONResponse(_describe(made), status_code=201)

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        return JSONResponse([_describe(each) for each in await self._history.webhooks.list(team)])

    async def _show(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        return JSONResponse(_describe(await self._history.webhooks.get(team, _id(request))))

    async def _change(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, WebhookChangeBody)
        if body.url is not None:
            self._destinations.check_url(body.url)
        values = {
            "name": body.name,
            "url": body.url,
            "enabled": body.enabled,
            "types": None if body.events is None else _parse_types(body.events),
            "secret": body.signatureSecret,
        }
        given = {name: value for name, value in values.items() if value is not None}
        return JSONResponse(
            _describe(await self._history.webhooks.change(team, _id(request), given))
        )

    async def _delete(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        await self._history.webhooks.delete(team, _id(request))
        return Response(status_code=200)


def _id(request: Request) -> str:
    return str(request.path_params["webhook_id"])


def _parse_types(names: list[str]) -> list[str]:
    return sorted({parse_type(name).value for name in names})


def _describe(webhook: Webhook) -> dict[str, Any]:
    """All but the secret, which is never given out."""
    return {
        "id": webhook.webhook_id,
        "teamId": webhook.team_id,
        "name": webhook.name,
        "createdAt": format_moment(webhook.created_at),
        "enabled": webhook.enabled,
        "url": webhook.url,
        "events": [format_type(kind) for kind in webhook.types],
    }
