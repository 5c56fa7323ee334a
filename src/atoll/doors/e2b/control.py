"""The control plane: `/sandboxes` and what belongs to it, over REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.codes import http_body, http_status
from atoll.doors.e2b.listing import filter_metadata, list_page, start_position
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
from atoll.errors import AtollError, InvalidInput, TooLarge
from atoll.sandboxes.service import SandboxService
from atoll.store.keys import KeyStore

log = structlog.get_logger(__name__)

_MAX_BODY = 1 << 20
_V1_TIMEOUT = 15
_V2_TIMEOUT = 300

Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


async def _read_body(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > _MAX_BODY:
        raise TooLarge(f"the body is larger than {_MAX_BODY} bytes")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise TooLarge(f"the body is larger than {_MAX_BODY} bytes")
    return bytes(body)


async def _parse_body(request: Request, model: type[Body]) -> Body:
    raw = await _read_body(request)
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise InvalidInput(f"the body is not what this route takes: {what}") from None


class ControlPlane:
    """The routes under which sandboxes are made, found, prolonged and ended."""

    def __init__(self, *, service: SandboxService, keys: KeyStore, domain: str) -> None:
        self._service = service
        self._keys = keys
        self._domain = domain

    def build_app(self) -> Starlette:
        """Build the ASGI application."""
        one = "/sandboxes/{sandbox_id}"
        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
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
            ],
            exception_handlers={
                AtollError: _answer_error,
                HTTPException: _answer_no_route,
                ClientDisconnect: _answer_nobody,
                Exception: _answer_bug,
            },
        )

    async def _team(self, request: Request) -> str:
        return await self._keys.authenticate(request.headers.get("x-api-key"))

    async def _health(self, request: Request) -> Response:
        return Response(status_code=204)

    async def _create_v1(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, NewSandboxBody)
        return await self._create(team, body, timeout=_V1_TIMEOUT, secured=bool(body.secure))

    async def _create_v2(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, NewSandboxBody)
        return await self._create(team, body, timeout=_V2_TIMEOUT, secured=True)

    async def _create(
        self, team: str, body: NewSandboxBody, *, timeout: int, secured: bool
    ) -> Response:
        request = body.to_request(default_timeout=timeout, secured=secured)
        sandbox = await self._service.create(team, request)
        return JSONResponse(describe_sandbox(sandbox, self._domain), status_code=201)

    async def _connect(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, ConnectBody)
        timeout = _V2_TIMEOUT if body.timeout is None else body.timeout
        sandbox = await self._service.prolong(team, request.path_params["sandbox_id"], timeout)
        return JSONResponse(describe_sandbox(sandbox, self._domain))

    async def _show(self, request: Request) -> Response:
        team = await self._team(request)
        sandbox = self._service.get(team, request.path_params["sandbox_id"])
        return JSONResponse(describe_detail(sandbox, self._domain))

    async def _kill(self, request: Request) -> Response:
        team = await self._team(request)
        await self._service.kill(team, request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def _list(self, request: Request) -> Response:
        team = await self._team(request)
        query = request.query_params
        page = list_page(self._service.list(team), query, query.getlist("state"))
        headers = {}
        if page.next_token is not None:
            headers["x-next-token"] = page.next_token
        if page.total_running is not None:
            headers["x-total-running"] = str(page.total_running)
        return JSONResponse([describe_listed(each) for each in page.sandboxes], headers=headers)

    async def _list_running(self, request: Request) -> Response:
        team = await self._team(request)
        found = filter_metadata(self._service.list(team), request.query_params.get("metadata"))
        found.sort(key=start_position, reverse=True)
        return JSONResponse([describe_listed(each) for each in found])

    async def _set_timeout(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, TimeoutBody)
        await self._service.set_timeout(team, request.path_params["sandbox_id"], body.timeout)
        return Response(status_code=204)

    async def _refresh(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, RefreshBody)
        duration = _V1_TIMEOUT if body.duration is None else body.duration
        await self._service.prolong(team, request.path_params["sandbox_id"], duration)
        return Response(status_code=204)

    async def _set_network(self, request: Request) -> Response:
        team = await self._team(request)
        body = await _parse_body(request, NetworkUpdateBody)
        egress = body.to_egress(body.allow_internet_access)
        await self._service.set_egress(team, request.path_params["sandbox_id"], egress)
        return Response(status_code=204)


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AtollError)
    status = http_status(error)
    # A client that would try again gets the same answer, unless the server was merely busy.
    headers = {"Should-Retry": "false"} if status != 503 else {"Retry-After": "1"}
    if isinstance(error, TooLarge):
        headers["Connection"] = "close"  # what is left of the body is not worth reading
    return JSONResponse(http_body(error), status_code=status, headers=headers)


def _answer_no_route(request: Request, error: Exception) -> Response:
    # 404 would tell the SDKs that the sandbox, or the template, does not exist.
    body = {"code": 501, "message": f"this server has no {request.method} {request.url.path}"}
    return JSONResponse(body, status_code=501, headers={"Should-Retry": "false"})


def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _answer_bug(request: Request, error: Exception) -> Response:
    log.error("request.failed", path=request.url.path, exc_info=error)
    body = {"code": 500, "message": "the server failed; its log says where"}
    return JSONResponse(body, status_code=500)
