"""What answers on port 49983 of every sandbox: the API of E2B's agent, spoken on the host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import structlog
from connectrpc.server import ConnectASGIApplication
from starlette.types import Receive, Scope, Send

from atoll.doors.answers import answer_empty, answer_gone, answer_json, header
from atoll.doors.cors import answer_preflight, is_preflight
from atoll.doors.e2b.access import (
    Operation,
    check_file_access,
    check_token,
    find_signed,
    find_user,
)
from atoll.doors.e2b.codes import connect_error, http_body, http_status
from atoll.doors.e2b.composing import compose_files
from atoll.doors.e2b.downloads import send_file
from atoll.doors.e2b.filesystem import Filesystem
from atoll.doors.e2b.gen.filesystem_connect import FilesystemASGIApplication
from atoll.doors.e2b.gen.process_connect import ProcessASGIApplication
from atoll.doors.e2b.metrics import measure
from atoll.doors.e2b.processes import Processes
from atoll.doors.e2b.rpc import CODECS, MAX_MESSAGE, serve
from atoll.doors.e2b.uploads import take_files
from atoll.doors.lines import Line, Lines
from atoll.errors import AtollError, NoSpace, SandboxGone
from atoll.sandboxes.model import Sandbox

log = structlog.get_logger(__name__)

ENVD_PORT = 49983

_PROCESSES = "/process.Process/"
_FILESYSTEM = "/filesystem.Filesystem/"
_METHODS = {
    "/health": ("GET",),
    "/metrics": ("GET",),
    "/envs": ("GET",),
    "/files": ("GET", "POST"),
    "/files/compose": ("POST",),
}
# What E2B's infrastructure alone may call; here the host has other ways to do these things.
_INTERNAL = frozenset(("/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"))

_DEFAULT_KEEPALIVE = 90.0
"""Seconds between signs of life on a quiet stream, when the client names no interval."""


class Envd:
    """The application. It is called with the sandbox that the gateway has found."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def answer(self, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises `SandboxGone` when nothing was answered yet."""
        path: str = scope["path"]
        if scope["type"] == "websocket":
            await _refuse(scope, send, 404, f"there is no WebSocket at {path}")
        elif is_preflight(scope):
            await answer_preflight(scope, send)
        elif path.startswith((_PROCESSES, _FILESYSTEM)):
            await self._call(sandbox, scope, receive, send)
        elif path in _METHODS:
            await self._rest(sandbox, scope, receive, send)
        elif path in _INTERNAL:
            await _refuse(scope, send, 403, f"{path} is not for clients")
        else:
            await _refuse(scope, send, 404, f"there is no {path}")

    async def answer_signed(
        self, sandboxes: Iterable[Sandbox], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request for a file that names its sandbox by nothing but its signature."""
        if is_preflight(scope):
            await answer_preflight(scope, send)
            return
        try:
            sandbox = find_signed(sandboxes, _read_query(scope), _operation(scope))
        except AtollError as error:
            # The same for a wrong signature and for a sandbox that is no more.
            await answer_json(scope, send, http_status(error), http_body(error))
            return
        try:
            await self._rest(sandbox, scope, receive, send)
        except SandboxGone:
            await answer_gone(scope, send, sandbox.sandbox_id)

    async def _rest(self, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if method not in _METHODS[path]:
            allowed = ", ".join(_METHODS[path])
            headers = [(b"allow", allowed.encode())]
            body = {"code": 405, "message": f"{path} takes {allowed}"}
            await answer_json(scope, send, 405, body, headers)
            return
        try:
            if path == "/health":
                await answer_empty(scope, send, 204)
            elif path == "/files":
                await self._files(sandbox, scope, receive, send)
            elif path == "/files/compose":
                check_token(sandbox, scope)
                await self._lines.run(
                    sandbox, send, lambda line: compose_files(sandbox, scope, receive, line)
                )
            else:
                check_token(sandbox, scope)
                found = sandbox.envs if path == "/envs" else await measure(sandbox)
                await answer_json(scope, send, 200, dict(found))
        except SandboxGone:
            raise
        except AtollError as error:
            refusal = http_body(error)
            if isinstance(error, NoSpace):
                refusal["message"] = f"not enough disk space available: {error.message}"
            await answer_json(scope, send, http_status(error), refusal)

    async def _files(self, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
        query = _read_query(scope)
        check_file_access(sandbox, scope, query, _operation(scope))
        transfer = send_file if scope["method"] == "GET" else take_files
        await self._lines.run(
            sandbox, send, lambda line: transfer(sandbox, scope, receive, line, query)
        )

    async def _call(self, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_token(sandbox, scope)
            user = find_user(sandbox, scope)
        except AtollError as error:
            refusal = connect_error(error)
            body = {"code": refusal.code.value, "message": refusal.message}
            await answer_json(scope, send, http_status(error), body)
            return

        async def work(line: Line) -> None:
            app: ConnectASGIApplication[Any]
            keepalive = _keepalive(scope)
            if scope["path"].startswith(_PROCESSES):
                service = Processes(sandbox, line, user=user, keepalive=keepalive)
                app = ProcessASGIApplication(service, codecs=CODECS, read_max_bytes=MAX_MESSAGE)
            else:
                files = Filesystem(sandbox, line, user=user, keepalive=keepalive)
                app = FilesystemASGIApplication(files, codecs=CODECS, read_max_bytes=MAX_MESSAGE)
            await serve(app, scope, receive, line)

        await self._lines.run(sandbox, send, work)


def is_file(scope: Scope) -> bool:
    """Whether a request is for a file of a sandbox."""
    return bool(scope["type"] == "http" and scope["path"] == "/files")


def _read_query(scope: Scope) -> dict[str, str]:
    return dict(
        parse_qsl(
            scope["query_string"].decode("latin-1"),
            keep_blank_values=True,
            errors="surrogateescape",
        )
    )


def _operation(scope: Scope) -> Operation:
    return "read" if scope["method"] == "GET" else "write"


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    await answer_json(scope, send, status, {"code": status, "message": message})


def _keepalive(scope: Scope) -> float:
    """Seconds between signs of life, as the client asks by `Keepalive-Ping-Interval`."""
    given = header(scope, b"keepalive-ping-interval")
    if given is not None and given.isdigit() and len(given) < 6:
        return max(1.0, float(given))
    return _DEFAULT_KEEPALIVE
