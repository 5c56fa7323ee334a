"""`/sandboxes/{id}/logs`: what happened in a sandbox, in both forms of E2B's API."""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.queries import take_number
from atoll.errors import InvalidInput
from atoll.sandboxes.events import format_moment
from atoll.sandboxes.history import History
from atoll.store.logs import LogEntry, LogLevel, LogQuery

_MOST = 1000
_LONGEST_SEARCH = 256
_LEVELS = {level.name.lower(): level for level in LogLevel}


class LogRoutes:
    """The routes of logs."""

    def __init__(self, history: History, credentials: Credentials) -> None:
        self._history = history
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/sandboxes/{sandbox_id}/logs"
        return [
            Route(one, self._show_v1, methods=["GET"]),
            Route(f"/v2{one}", self._show, methods=["GET"]),
        ]

    async def _show_v1(self, request: Request) -> Response:
        start = take_number(request.query_params, "start")
        limit = take_number(request.query_params, "limit")
        query = LogQuery(
            since=None if start is None else start / 1000,
            limit=_MOST if limit is None else min(limit, _MOST),
        )
        entries = await self._find(request, query)
        lines = [{"timestamp": format_moment(e.at), "line": _format_line(e)} for e in entries]
        return JSONResponse({"logs": lines, "logEntries": [_describe(e) for e in entries]})

    async def _show(self, request: Request) -> Response:
        entries = await self._find(request, _parse_query(request.query_params))
        return JSONResponse({"logs": [_describe(entry) for entry in entries]})

    async def _find(self, request: Request, query: LogQuery) -> list[LogEntry]:
        team = await self._credentials.find_team(request)
        return await self._history.logs(team, request.path_params["sandbox_id"], query)


def _parse_query(given: QueryParams) -> LogQuery:
    direction = given.get("direction", "forward")
    if direction not in ("forward", "backward"):
        raise InvalidInput("direction must be forward or backward")
    level = _LEVELS.get(given.get("level", "debug"))
    if level is None:
        raise InvalidInput(f"level must be one of {', '.join(_LEVELS)}")
    search = given.get("search", "")
    if len(search) > _LONGEST_SEARCH:
        raise InvalidInput(f"search must not be longer than {_LONGEST_SEARCH} characters")
    limit = take_number(given, "limit", high=_MOST)
    cursor = take_number(given, "cursor")
    backward = direction == "backward"
    return LogQuery(
        since=None if cursor is None or backward else cursor / 1000,
        # All of the cursor's millisecond.
        until=(cursor + 1) / 1000 if cursor is not None and backward else None,
        level=level,
        search=search,
        newest_first=backward,
        limit=_MOST if limit is None else limit,
    )


def _describe(entry: LogEntry) -> dict[str, Any]:
    return {
        "timestamp": format_moment(entry.at),
        "level": entry.level.name.lower(),
        "message": entry.message,
        "fields": dict(entry.fields),
    }


def _format_line(entry: LogEntry) -> str:
    # The older form is one JSON object per line, as E2B's agent writes it; the CLI prints its
    # fields and filters by `level` and `logger`.
    line = {"level": entry.level.name.lower(), "message": entry.message, **entry.fields}
    return json.dumps(line, ensure_ascii=False)
