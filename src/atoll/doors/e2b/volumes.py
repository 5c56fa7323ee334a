"""`/volumes`: volumes are made, found and removed."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.models import NameBody
from atoll.store.volumes import Volume
from atoll.volumes.service import VolumeService


class VolumeRoutes:
    """The routes of volumes."""

    def __init__(self, volumes: VolumeService, credentials: Credentials, *, domain: str) -> None:
        self._volumes = volumes
        self._credentials = credentials
        self._domain = domain

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/volumes/{volume_id}"
        return [
            Route("/volumes", self._list, methods=["GET"]),
            Route("/volumes", self._create, methods=["POST"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._remove, methods=["DELETE"]),
        ]

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        return JSONResponse([_describe(each) for each in await self._volumes.list(team)])

    async def _create(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, NameBody)
        volume = await self._volumes.create(team, body.name)
        return JSONResponse(self._describe_with_token(volume), status_code=201)

    async def _show(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        volume = await self._volumes.get(team, request.path_params["volume_id"])
        return JSONResponse(self._describe_with_token(volume))

    async def _remove(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        await self._volumes.remove(team, request.path_params["volume_id"])
        return Response(status_code=204)

    def _describe_with_token(self, volume: Volume) -> dict[str, Any]:
        token = self._volumes.tokens.issue(volume.volume_id)
        # Without a domain, a client that has no E2B_VOLUME_API_URL sends the token to E2B's cloud.
        return {**_describe(volume), "token": token, "domain": self._domain}


def _describe(volume: Volume) -> dict[str, Any]:
    return {"volumeID": volume.volume_id, "name": volume.name}
