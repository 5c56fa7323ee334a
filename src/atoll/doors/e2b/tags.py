"""`/templates/tags`: names of single builds."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.recipes import AssignTagsBody, RemoveTagsBody
from atoll.sandboxes.events import format_moment
from atoll.templates.service import TemplateService


class TagRoutes:
    """The routes of tags."""

    def __init__(self, templates: TemplateService, credentials: Credentials) -> None:
        self._templates = templates
        self._credentials = credentials

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        return [
            Route("/templates/tags", self._assign, methods=["POST"]),
            Route("/templates/tags", self._remove, methods=["DELETE"]),
            Route("/templates/{template:path}/tags", self._list, methods=["GET"]),
        ]

    async def _assign(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, AssignTagsBody)
        build_id = await self._templates.assign_tags(team, body.target, body.tags)
        return JSONResponse({"buildID": build_id, "tags": body.tags}, status_code=201)

    async def _remove(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, RemoveTagsBody)
        await self._templates.remove_tags(team, body.name, body.tags)
        return Response(status_code=204)

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        tags = await self._templates.tags(team, request.path_params["template"])
        return JSONResponse(
            [
                {
                    "tag": each.tag,
                    "buildID": each.build_id,
                    "createdAt": format_moment(each.created_at),
                }
                for each in tags
            ]
        )
