"""The control plane: E2B's REST API, put together from the routes of each noun."""

from __future__ import annotations

from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from atoll.doors.e2b.codes import http_body, http_status
from atoll.errors import AtollError, RateLimited, TooLarge

log = structlog.get_logger(__name__)


class RouteGroup(Protocol):
    """The routes of one noun."""

    def routes(self) -> list[Route]:
        """The routes; their handlers may raise any `AtollError`."""
        ...


def build_control_plane(*groups: RouteGroup) -> Starlette:
    """Build the ASGI application; the errors that its routes raise are answered here."""
    health = Route("/health", _answer_health, methods=["GET"])
    return Starlette(
        routes=[health, *(route for group in groups for route in group.routes())],
        exception_handlers={
            AtollError: _answer_error,
            HTTPException: _answer_no_route,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_bug,
        },
    )


async def _answer_health(request: Request) -> Response:
    return Response(status_code=204)


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AtollError)
    status = http_status(error)
    # A client that would try again gets the same answer, unless it was merely too early.
    headers = {"Should-Retry": "false"}
    if isinstance(error, RateLimited):
        headers = {"Retry-After": str(error.retry_after)}
    elif status == 503:
        headers = {"Retry-After": "1"}
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
