"""The gateway: every request comes in here and goes to a port of a sandbox or to the control plane.

control plane        any request that names no sandbox and is for no file of one
E2B's agent API      port 49983 of a sandbox, spoken here on the host
a service inside     any other port, over HTTP or WebSocket
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from atoll.doors.address import Address, Locator, Via
from atoll.doors.answers import answer_closed_port, answer_empty, answer_gone, answer_json
from atoll.doors.cors import answer_preflight, is_header_preflight, open_to_all
from atoll.doors.e2b.access import check_traffic_token
from atoll.doors.e2b.envd import ENVD_PORT, Envd, is_file
from atoll.doors.lines import Lines, quiet_drops
from atoll.doors.proxy import Proxy
from atoll.errors import AtollError, Forbidden, InvalidInput, PortClosed, SandboxGone
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.service import SandboxService


def build_gateway(service: SandboxService, *, control: ASGIApp, domain: str) -> Gateway:
    """Build the one ASGI application of the server.

    `control` answers what is for no sandbox. `domain` is the base of the sandboxes' host names,
    with or without a port. Call `close` on the result when the server has stopped.
    """
    quiet_drops()
    return Gateway(service, control=control, domain=domain)


class Gateway:
    """The application."""

    def __init__(self, service: SandboxService, *, control: ASGIApp, domain: str) -> None:
        self._service = service
        self._control = control
        self._locator = Locator(domain)
        self._lines = Lines()
        self._envd = Envd(self._lines)
        self._proxy = Proxy(self._lines, service.lookup)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._control(scope, receive, send)
            return
        try:
            address = self._locator.locate(scope)
        except InvalidInput as error:
            await _refuse(scope, open_to_all(scope, send), 400, error)
            return
        if address is not None:
            await self._answer(address, scope, receive, send)
        elif is_file(scope):
            live = self._service.all_live()
            await self._envd.answer_signed(live, scope, receive, open_to_all(scope, send))
        elif is_header_preflight(scope):
            await answer_preflight(scope, send)
        else:
            await self._control(scope, receive, send)

    async def _answer(self, address: Address, scope: Scope, receive: Receive, send: Send) -> None:
        if address.via is Via.HEADERS or address.port == ENVD_PORT:
            send = open_to_all(scope, send)
        if address.raw_path is not None:
            if not address.raw_path:
                # Relative links of the service's pages need the slash.
                await _redirect(scope, send, f"{address.prefix}/")
                return
            scope = dict(scope)
            scope["raw_path"] = address.raw_path
            scope["path"] = unquote(address.raw_path.decode("latin-1"))
        sandbox = self._service.lookup(address.sandbox_id)
        if sandbox is None:
            await answer_gone(scope, send, address.sandbox_id)
            return
        try:
            await self._pass_on(sandbox, address, scope, receive, send)
        except SandboxGone:
            await answer_gone(scope, send, address.sandbox_id)

    async def _pass_on(
        self, sandbox: Sandbox, address: Address, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if address.port == ENVD_PORT:
            await self._envd.answer(sandbox, scope, receive, send)
            return
        try:
            check_traffic_token(sandbox, scope)
            await self._proxy.pass_on(sandbox, address, scope, receive, send)
        except Forbidden as error:
            await _refuse(scope, open_to_all(scope, send), 403, error)
        except PortClosed:
            send = open_to_all(scope, send)
            await answer_closed_port(scope, send, address.sandbox_id, address.port)

    async def close(self) -> None:
        """Let go of what the answered requests have left open."""
        await self._proxy.close()
        self._lines.close()


async def _refuse(scope: Scope, send: Send, status: int, error: AtollError) -> None:
    await answer_json(scope, send, status, {"code": status, "message": error.message})


async def _redirect(scope: Scope, send: Send, path: str) -> None:
    query: bytes = scope["query_string"]
    location = path.encode() + (b"?" + query if query else b"")
    await answer_empty(scope, send, 307, [(b"location", location)])
