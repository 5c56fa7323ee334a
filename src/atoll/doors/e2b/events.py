"""`/events/sandboxes`: what happened to a team's sandboxes.

Routes, parameters and fields are those of E2B's documentation; its API description has none.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.queries import take_flag, take_number
from atoll.errors import InvalidInput
from atoll.sandboxes.events import EventType, format_moment
from atoll.sandboxes.history import History
from atoll.store.events import EventRow

_PREFIX = "sandbox.lifecycle."
_VERSION = "v2"
_LIMIT = 10
_MOST = 100


def parse_type(name: str) -> EventType:
    """The type that E2B's API calls so. Raises `InvalidInput`."""
    try:
        return EventType(name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else "")
    except ValueError:
        known = ", ".join(format_type(kind) for kind in EventType)
        raise InvalidInput(f"{name[:100]!r} is not a type of event; there are {known}") from None


def format_type(kind: str) -> str:
    """What E2B's API calls a type."""
    return _PREFIX + kind


def describe_event(event: EventRow) -> dict[str, Any]:
    """An event, in lists and on its way to webhooks."""
    return {
        "version": _VERSION,
        "id": event.event_id,
        "type": format_type(event.type),
        "eventData": {"sandbox_metadata": dict(event.metadata), **event.data},
        "sandboxBuildId": event.build_id,
        "sandboxExecutionId": event.execution_id,
        "sandboxId": event.sandbox_id,
        "sandboxTeamId": event.team_id,
        "sandboxTemplateId": event.template_id,
        "timestamp": format_moment(event.at),
    }


class EventRoutes:
    """The routes of events."""

    def __init__(self, history: History, credentials: Credentials) -> None:
        self._history = history
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        return [
            Route("/events/sandboxes", self._list, methods=["GET"]),
            Route("/events/sandboxes/{sandbox_id}", self._list, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        query = request.query_params
        limit = take_number(query, "limit", low=1, high=_MOST)
        found = await self._history.lifecycle.find(
            team,
            sandbox_id=request.path_params.get("sandbox_id"),
            types=_parse_types(query),
            oldest_first=take_flag(query, "orderAsc"),
            offset=take_number(query, "offset") or 0,
            limit=_LIMIT if limit is None else limit,
        )
        return JSONResponse([describe_event(event) for event in found])


def _parse_types(query: QueryParams) -> set[EventType]:
    given = query.getlist("types")
    return {parse_type(name) for text in given for name in text.split(",") if name}
