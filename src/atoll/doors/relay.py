"""WebSockets between clients and services inside sandboxes."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from atoll.doors.address import Address
from atoll.doors.answers import answer_bad_service, answer_bytes
from atoll.doors.headers import BadAnswer, RawHeaders, inward, outward
from atoll.doors.lines import Line
from atoll.doors.upstream import dial
from atoll.sandboxes.model import Sandbox

MAX_MESSAGE = 64 << 20
"""Bytes of one message at most, as for messages from clients (uvicorn's `ws_max_size`)."""

_MAX_QUEUE = 4
_HANDSHAKE_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_NORMAL, _GOING_AWAY = 1000, 1001
# They stand for what happened and never travel (RFC 6455, section 7.4.1).
_NO_CODE, _UNSENDABLE = 1005, frozenset((1005, 1006, 1015))


class _Protocol(ClientProtocol):
    """Opens with the `Host` that the client named, not the one of a URL."""

    def __init__(self, uri: WebSocketURI, host: str, subprotocols: list[str]) -> None:
        offered = [Subprotocol(each) for each in subprotocols]
        super().__init__(uri, subprotocols=offered or None, max_size=MAX_MESSAGE)
        self._host = host

    def connect(self) -> Request:
        request = super().connect()
        del request.headers["Host"]
        request.headers["Host"] = self._host
        return request


async def relay(
    sandbox: Sandbox, address: Address, scope: Scope, receive: Receive, line: Line
) -> None:
    """Connect both ends until one of them closes, and tell the other how it did.

    Raises `PortClosed` or `SandboxGone` when nothing was answered.
    """
    service = await _open(sandbox, address, scope)
    try:
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await service.handshake(_additional_headers(sandbox, address, scope), None)
            assert service.response is not None
            headers = _outward(service.response, address, 200)
        except InvalidStatus as refusal:
            await _pass_refusal(refusal.response, sandbox, address, scope, line)
            return
        except (InvalidHandshake, ConnectionClosed, BadAnswer, EOFError, OSError, ValueError):
            await answer_bad_service(scope, line.send, sandbox.sandbox_id, address.port)
            return
        await line.send(
            {"type": "websocket.accept", "subprotocol": service.subprotocol, "headers": headers}
        )
        upward = asyncio.create_task(_carry_up(receive, service))
        try:
            # uvicorn raises these two when the client is gone already.
            with contextlib.suppress(OSError, RuntimeError):
                await _carry_down(service, upward, line)
        finally:
            upward.cancel()
    finally:
        service.transport.abort()


async def _open(sandbox: Sandbox, address: Address, scope: Scope) -> ClientConnection:
    host = inward(scope, sandbox, address).get("Host", sandbox.sandbox_id)
    uri = WebSocketURI(
        secure=False,
        host=sandbox.sandbox_id,
        port=address.port,
        path=scope["raw_path"].decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
    )
    protocol = _Protocol(uri, host, scope["subprotocols"])
    sock = await dial(sandbox, address.port)
    try:
        _, service = await asyncio.get_running_loop().create_connection(
            lambda: ClientConnection(
                protocol, ping_interval=None, close_timeout=_CLOSE_SECONDS, max_queue=_MAX_QUEUE
            ),
            sock=sock,
        )
    except BaseException:
        sock.close()
        raise
    return service


def _additional_headers(sandbox: Sandbox, address: Address, scope: Scope) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in inward(scope, sandbox, address).items()
        if name.lower() != "host" and not name.lower().startswith("sec-websocket-")
    ]


def _outward(response: Response, address: Address, status: int) -> RawHeaders:
    raw = [
        (name.encode(), value.encode("latin-1", "replace"))
        for name, value in response.headers.raw_items()
        if not name.lower().startswith("sec-websocket-")
    ]
    return outward(raw, address, status)


async def _pass_refusal(
    response: Response, sandbox: Sandbox, address: Address, scope: Scope, line: Line
) -> None:
    status = response.status_code
    try:
        if not 200 <= status <= 599:
            raise BadAnswer("a status that no final answer has")
        headers = _outward(response, address, status)
    except BadAnswer:
        await answer_bad_service(scope, line.send, sandbox.sandbox_id, address.port)
        return
    own_length = [pair for pair in headers if pair[0] != b"content-length"]
    await answer_bytes(scope, line.send, status, bytes(response.body or b""), own_length)


async def _carry_up(receive: Receive, service: ClientConnection) -> None:
    """Carry the client's messages to the service, its close last."""
    with contextlib.suppress(ConnectionClosed):
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                text = message.get("text")
                await service.send(message["bytes"] if text is None else text)
        code = message.get("code", _NO_CODE)
        if "reason" not in message:
            code = _GOING_AWAY  # the connection was lost: uvicorn has no reason then
        elif code in _UNSENDABLE:
            code = _NORMAL
        await service.close(code, message.get("reason") or "")


async def _carry_down(service: ClientConnection, upward: asyncio.Task[None], line: Line) -> None:
    """Carry the service's messages to the client, its close last; no close, no clean end."""
    try:
        while True:
            message = await service.recv()
            if isinstance(message, str):
                await line.send({"type": "websocket.send", "text": message})
            else:
                await line.send({"type": "websocket.send", "bytes": message})
    except ConnectionClosed as closed:
        # What the library sent by itself is its judgement of the service: say the same.
        close: Close | None = closed.rcvd or closed.sent
        if close is not None and not upward.done():
            code = _NORMAL if close.code in _UNSENDABLE else close.code
            await line.send({"type": "websocket.close", "code": code, "reason": close.reason})
