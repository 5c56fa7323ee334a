"""`/templates`: templates are asked for, found, shared and removed."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.models import ENVD_VERSION
from atoll.doors.e2b.queries import take_number
from atoll.doors.e2b.recipes import NewTemplateBody, TemplateUpdateBody
from atoll.sandboxes.events import format_moment
from atoll.store.builds import READY, BuildRow
from atoll.store.templates import TemplateRow
from atoll.templates.jobs import BuildService
from atoll.templates.service import TemplateService

_MOST = 100


class TemplateRoutes:
    """The routes of templates."""

    def __init__(
        self, templates: TemplateService, builds: BuildService, credentials: Credentials
    ) -> None:
        self._templates = templates
        self._builds = builds
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane: after those that go on behind a template's name,
        which may hold a slash."""
        one = "/templates/{template:path}"
        return [
            Route("/v3/templates", self._request, methods=["POST"]),
            Route("/v2/templates", self._request_v2, methods=["POST"]),
            Route("/v2/templates", self._list_pages, methods=["GET"]),
            Route("/templates", self._list, methods=["GET"]),
            Route("/templates/aliases/{template:path}", self._locate, methods=["GET"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._remove, methods=["DELETE"]),
            Route(one, self._update, methods=["PATCH"]),
            Route(f"/v2{one}", self._update, methods=["PATCH"]),
        ]

    async def _request(self, request: Request) -> Response:
        row, build = await self._make_room(request)
        body = {
            "templateID": row.template_id,
            "buildID": build.build_id,
            "public": row.public,
            "names": await self._templates.names(row),
            "tags": list(build.tags),
            "aliases": [row.name],
        }
        return JSONResponse(body, status_code=202)

    async def _request_v2(self, request: Request) -> Response:
        row, build = await self._make_room(request)
        body = {**await self._describe(row), "buildID": build.build_id}
        return JSONResponse(body, status_code=202)

    async def _make_room(self, request: Request) -> tuple[TemplateRow, BuildRow]:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, NewTemplateBody)
        return await self._builds.request(team, body.to_request())

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        return JSONResponse([await self._describe(r) for r in await self._templates.list(team)])

    async def _list_pages(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        rows = await self._templates.list(team)
        page, following = _cut(request, rows)
        body = [await self._describe(row) for row in page]
        return JSONResponse(body, headers=following)

    async def _locate(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        found = await self._templates.locate(team, request.path_params["template"])
        return JSONResponse({"templateID": found.template_id, "public": found.public})

    async def _show(self, request: Request) -> Response:
        row = await self._own(request)
        page, following = _cut(request, list(await self._builds.list(row)))
        body = {
            "templateID": row.template_id,
            "public": row.public,
            "aliases": [row.name],
            "names": await self._templates.names(row),
            "createdAt": format_moment(row.created_at),
            "updatedAt": format_moment(row.updated_at),
            "lastSpawnedAt": _format(row.last_spawned_at),
            "spawnCount": row.spawn_count,
            "builds": [_describe_build(build) for build in page],
        }
        return JSONResponse(body, headers=following)

    async def _update(self, request: Request) -> Response:
        row = await self._own(request)
        body = await parse_body(request, TemplateUpdateBody)
        if body.public is not None:
            await self._templates.set_public(row, body.public)
        return JSONResponse({"names": await self._templates.names(row)})

    async def _remove(self, request: Request) -> Response:
        row = await self._own(request)
        await self._builds.remove(row)
        return Response(status_code=204)

    async def _own(self, request: Request) -> TemplateRow:
        team = await self._credentials.find_team(request)
        return await self._templates.own(team, request.path_params["template"])

    async def _describe(self, row: TemplateRow) -> dict[str, Any]:
        builds = await self._builds.list(row)
        newest = builds[0] if builds else None
        ready = next((build for build in builds if build.status == READY), newest)
        resources = _describe_resources(ready) if ready is not None else {}
        return {
            "templateID": row.template_id,
            "buildID": ready.build_id if ready is not None else "",
            **resources,
            "public": row.public,
            "aliases": [row.name],
            "names": await self._templates.names(row),
            "createdAt": format_moment(row.created_at),
            "updatedAt": format_moment(row.updated_at),
            "createdBy": None,
            "lastSpawnedAt": _format(row.last_spawned_at),
            "spawnCount": row.spawn_count,
            "buildCount": row.build_count,
            "envdVersion": ENVD_VERSION,
            "buildStatus": newest.status if newest is not None else "waiting",
        }


def _cut(request: Request, rows: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """One page of rows, and the header that leads to the next."""
    limit = take_number(request.query_params, "limit", low=1, high=_MOST) or _MOST
    start = take_number(request.query_params, "nextToken") or 0
    more = start + limit < len(rows)
    return rows[start : start + limit], {"X-Next-Token": str(start + limit)} if more else {}


def _describe_build(build: BuildRow) -> dict[str, Any]:
    body = {
        "buildID": build.build_id,
        "status": build.status,
        "createdAt": format_moment(build.created_at),
        "updatedAt": format_moment(build.updated_at),
        **_describe_resources(build),
        "envdVersion": ENVD_VERSION,
    }
    if build.finished_at is not None:
        body["finishedAt"] = format_moment(build.finished_at)
    return body


def _describe_resources(build: BuildRow) -> dict[str, int]:
    return {
        "cpuCount": build.resources["cpu_count"],
        "memoryMB": build.resources["memory_mb"],
        "diskSizeMB": build.resources["disk_mb"],
    }


def _format(moment: float | None) -> str | None:
    return None if moment is None else format_moment(moment)
