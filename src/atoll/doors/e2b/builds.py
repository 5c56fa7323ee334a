"""`/templates/{id}/builds` and `…/files`: files are sent, builds triggered and followed."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.queries import take_number
from atoll.doors.e2b.recipes import BuildBody
from atoll.errors import Forbidden, InvalidInput
from atoll.sandboxes.events import format_moment
from atoll.store.builds import ERROR, BuildLine, BuildRow
from atoll.store.logs import LogLevel
from atoll.store.templates import TemplateRow
from atoll.templates.jobs import BuildService
from atoll.templates.service import TemplateService

_MOST_LINES = 100
_REASON_LINES = 20
_LEVELS = {level.name.lower(): level for level in LogLevel}
_LINK_SECONDS = 3600
_IDLE_SECONDS = 300.0
"""How long an upload may stand still."""


class UploadLinks:
    """Links that take one archive of one team, for an hour, without further credentials."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def issue(self, team_id: str, name: str) -> str:
        """The link's path."""
        until = int(time.time()) + _LINK_SECONDS
        return f"/template-files/{team_id}/{name}/{until}/{self._sign(team_id, name, until)}"

    def check(self, parts: Mapping[str, Any]) -> None:
        """Raises `Forbidden` for a link that was not issued, or is too old."""
        until = int(parts["until"])
        signature = self._sign(parts["team_id"], parts["name"], until)
        good = hmac.compare_digest(signature.encode(), parts["signature"].encode())
        if not good or until < time.time():
            raise Forbidden("the link for the upload is not good any more", remedy="ask for a new")

    def _sign(self, team_id: str, name: str, until: int) -> str:
        return hmac.digest(self._key, f"{team_id}/{name}/{until}".encode(), "sha256").hex()


class BuildRoutes:
    """The routes of builds."""

    def __init__(
        self, templates: TemplateService, builds: BuildService, credentials: Credentials
    ) -> None:
        self._templates = templates
        self._builds = builds
        self._credentials = credentials
        self._links = UploadLinks()

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/templates/{template:path}/builds/{build_id}"
        files = "/templates/{template:path}/files/{name}"
        upload = "/template-files/{team_id}/{name}/{until:int}/{signature}"
        return [
            Route(files, self._offer, methods=["GET"]),
            Route(upload, self._take, methods=["PUT"]),
            Route(f"/v2{one}", self._trigger, methods=["POST"]),
            Route(f"{one}/status", self._show, methods=["GET"]),
            Route(f"{one}/logs", self._show_logs, methods=["GET"]),
        ]

    async def _offer(self, request: Request) -> Response:
        team, _ = await self._own(request)
        name = request.path_params["name"]
        present = self._builds.uploads(team).digest(name) is not None
        # Also when it is there: a client may want to send it all the same.
        url = _base_url(request) + self._links.issue(team, name)
        return JSONResponse({"present": present, "url": url}, status_code=201)

    async def _take(self, request: Request) -> Response:
        parts = request.path_params
        self._links.check(parts)
        await self._builds.uploads(parts["team_id"]).receive(parts["name"], _read(request))
        return Response(status_code=200)

    async def _trigger(self, request: Request) -> Response:
        team, row = await self._own(request)
        body = await parse_body(request, BuildBody)
        await self._builds.trigger(team, row, request.path_params["build_id"], body.to_recipe())
        return Response(status_code=202)

    async def _show(self, request: Request) -> Response:
        _, row = await self._own(request)
        query = request.query_params
        offset = take_number(query, "logsOffset", high=2**31) or 0
        limit = take_number(query, "limit", high=_MOST_LINES)
        level = _take_level(query)
        # The status first: what is written between the two is read with the next request.
        build = await self._builds.get(row, request.path_params["build_id"])
        lines = await self._builds.lines(
            build, offset=offset, limit=_MOST_LINES if limit is None else limit, level=level
        )
        body: dict[str, Any] = {
            "templateID": row.template_id,
            "buildID": build.build_id,
            "status": build.status,
            "logs": [],
            "logEntries": [_describe(line) for line in lines],
        }
        if build.status == ERROR:
            body["reason"] = await self._explain(build)
        return JSONResponse(body)

    async def _explain(self, build: BuildRow) -> dict[str, Any]:
        failure = build.failure or {}
        lines = await self._builds.lines_since(
            build, moment=None, limit=_REASON_LINES, level=LogLevel.DEBUG, backward=True
        )
        step = failure.get("step", "")
        of_step = [line for line in reversed(lines) if line.step == step]
        reason: dict[str, Any] = {
            "message": failure.get("message", "the build failed"),
            "logEntries": [_describe(line) for line in of_step],
        }
        return {**reason, "step": step} if step else reason

    async def _show_logs(self, request: Request) -> Response:
        _, row = await self._own(request)
        query = request.query_params
        direction = query.get("direction", "forward")
        if direction not in ("forward", "backward"):
            raise InvalidInput("direction must be forward or backward")
        cursor = take_number(query, "cursor")
        limit = take_number(query, "limit", high=_MOST_LINES)
        backward = direction == "backward"
        build = await self._builds.get(row, request.path_params["build_id"])
        lines = await self._builds.lines_since(
            build,
            # Backward, all of the cursor's millisecond.
            moment=None if cursor is None else (cursor + backward) / 1000,
            limit=_MOST_LINES if limit is None else limit,
            level=_take_level(query),
            backward=backward,
        )
        return JSONResponse({"logs": [_describe(line) for line in lines]})

    async def _own(self, request: Request) -> tuple[str, TemplateRow]:
        team = await self._credentials.find_team(request)
        return team, await self._templates.own(team, request.path_params["template"])


def _take_level(query: Mapping[str, str]) -> LogLevel:
    level = _LEVELS.get(query.get("level", "debug"))
    if level is None:
        raise InvalidInput(f"level must be one of {', '.join(_LEVELS)}")
    return level


def _describe(line: BuildLine) -> dict[str, Any]:
    body = {
        "timestamp": format_moment(line.at),
        "level": LogLevel(line.level).name.lower(),
        "message": line.message,
    }
    return {**body, "step": line.step} if line.step else body


async def _read(request: Request) -> AsyncIterator[bytes]:
    chunks = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise InvalidInput(f"nothing came for {_IDLE_SECONDS:g} s") from None
        yield chunk


def _base_url(request: Request) -> str:
    """Where the client has reached us: it is the only one to whom the link is told."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    if scheme not in ("http", "https"):
        scheme = request.url.scheme
    return f"{scheme}://{request.url.netloc}"
