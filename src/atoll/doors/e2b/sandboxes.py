"""`/sandboxes`: sandboxes are made, found, prolonged and ended."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.credentials import Credentials
from atoll.doors.e2b.idempotency import read_idempotency
from atoll.doors.e2b.listing import list_page, list_running
from atoll.doors.e2b.models import (
    ConnectBody,
    NetworkUpdateBody,
    NewSandboxBody,
    RefreshBody,
    TimeoutBody,
    describe_detail,
    describe_listed,
    describe_sandbox,
)
from atoll.doors.leaving import unless_gone
from atoll.sandboxes.model import NewSandbox, Sandbox
from atoll.sandboxes.service import SandboxService

_V1_TIMEOUT = 15
_V2_TIMEOUT = 300


class SandboxRoutes:
    """The routes of sandboxes."""

    def __init__(self, service: SandboxService, credentials: Credentials, *, domain: str) -> None:
        self._service = service
        self._credentials = credentials
        self._domain = domain

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/sandboxes/{sandbox_id}"
        return [
            Route("/sandboxes", self._list_running, methods=["GET"]),
            Route("/sandboxes", self._create_v1, methods=["POST"]),
            Route("/v2/sandboxes", self._list, methods=["GET"]),
            Route("/v2/sandboxes", self._create_v2, methods=["POST"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._kill, methods=["DELETE"]),
            Route(f"{one}/connect", self._connect, methods=["POST"]),
            Route(f"/v2{one}/connect", self._connect, methods=["POST"]),
            Route(f"{one}/timeout", self._set_timeout, methods=["POST"]),
            Route(f"{one}/refreshes", self._refresh, methods=["POST"]),
            Route(f"{one}/network", self._set_network, methods=["PUT"]),
        ]

    async def _create_v1(self, request: Request) -> Response:
        team = await self._credentials.find_creator(request)
        body = await parse_body(request, NewSandboxBody)
        wanted = body.to_request(default_timeout=_V1_TIMEOUT, secured=bool(body.secure))
        return await self._create(request, team, body, wanted)

    async def _create_v2(self, request: Request) -> Response:
        team = await self._credentials.find_creator(request)
        body = await parse_body(request, NewSandboxBody)
        wanted = body.to_request(default_timeout=_V2_TIMEOUT, secured=True)
        return await self._create(request, team, body, wanted)

    async def _create(
        self, request: Request, team: str, body: NewSandboxBody, wanted: NewSandbox
    ) -> Response:
        wanted = replace(wanted, idempotency=read_idempotency(request, body))
        creating = self._service.create(team, wanted)
        sandbox = await unless_gone(request.receive, creating, undo=self._abandon)
        return JSONResponse(describe_sandbox(sandbox, self._domain), status_code=201)

    async def _abandon(self, sandbox: Sandbox) -> None:
        if sandbox.idempotency is None:  # else the client will ask for it again
            await self._service.abandon(sandbox)

    async def _connect(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, ConnectBody)
        timeout = _V2_TIMEOUT if body.timeout is None else body.timeout
        sandbox = await self._service.prolong(team, request.path_params["sandbox_id"], timeout)
        return JSONResponse(describe_sandbox(sandbox, self._domain))

    async def _show(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        sandbox = self._service.get(team, request.path_params["sandbox_id"])
        return JSONResponse(describe_detail(sandbox, self._domain))

    async def _kill(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        await self._service.kill(team, request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def _list(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        query = request.query_params
        page = list_page(self._service.list(team), query, query.getlist("state"))
        headers = {}
        if page.next_token is not None:
            headers["x-next-token"] = page.next_token
        if page.total_running is not None:
            headers["x-total-running"] = str(page.total_running)
        return JSONResponse([describe_listed(each) for each in page.sandboxes], headers=headers)

    async def _list_running(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        found = list_running(self._service.list(team), request.query_params.get("metadata"))
        return JSONResponse([describe_listed(each) for each in found])

    async def _set_timeout(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, TimeoutBody)
        await self._service.set_timeout(team, request.path_params["sandbox_id"], body.timeout)
        return Response(status_code=204)

    async def _refresh(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, RefreshBody)
        duration = _V1_TIMEOUT if body.duration is None else body.duration
        await self._service.prolong(team, request.path_params["sandbox_id"], duration)
        return Response(status_code=204)

    async def _set_network(self, request: Request) -> Response:
        team = await self._credentials.find_team(request)
        body = await parse_body(request, NetworkUpdateBody)
        egress = body.to_egress(body.allow_internet_access)
        await self._service.set_egress(team, request.path_params["sandbox_id"], egress)
        return Response(status_code=204)
