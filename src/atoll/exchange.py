"""One request over HTTP/2 and its answer, as ASGI has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

import structlog
from h2.errors import ErrorCodes
from starlette.types import ASGIApp, Message, Scope

log = structlog.get_logger(__name__)

_MAX_DRAINED = 8 << 20
"""Bytes of a body that nobody reads any more which are thrown away for the client to see the end
of the answer; then the stream is cut."""

# They concern one connection of HTTP/1.1 and must not be sent here (RFC 9113, section 8.2.2).
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class Connection(Protocol):
    """What an exchange needs of the connection that it is part of."""

    def room(self, stream_id: int) -> int:
        """How many bytes of a body the stream may send now."""
        ...

    def send_head(
        self, stream_id: int, status: int, headers: list[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        """Send a status with its headers."""
        ...

    def send_data(self, stream_id: int, data: memoryview, *, end: bool) -> None:
        """Send so much of a body as there is room for."""
        ...

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send as much again."""
        ...

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Cut a stream."""
        ...

    def finish(self, stream_id: int) -> None:
        """Forget an exchange that has come to its end."""
        ...


class Exchange:
    """One request and its answer."""

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        scope: Scope,
        default_headers: list[tuple[bytes, bytes]],
    ) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._scope = scope
        self._default_headers = default_headers
        self._body = bytearray()
        self._body_ended = False
        self._end_told = False
        self._drained = 0
        self._news = asyncio.Event()
        self._may_send = asyncio.Event()
        self._gone = False
        """Whether there is nobody to send to any more."""
        self._started = False
        self._complete = False
        self._bodiless = False
        self._owed: int | None = None
        """Bytes that are still to come by the answer's Content-Length."""
        self._expects = (b"expect", b"100-continue") in scope["headers"]

    # -- the connection's side ---------------------------------------------------------------

    def feed(self, data: bytes) -> bool:
        """Take a piece of the request's body; False when nobody will read it."""
        if self._complete:
            self._drained += len(data)
            if self._drained > _MAX_DRAINED:
                self._connection.reset(self._stream_id, ErrorCodes.NO_ERROR)
                self._connection.finish(self._stream_id)
            return False
        self._body += data
        self._news.set()
        return True

    def feed_end(self) -> None:
        """Take note that the request's body is whole."""
        self._body_ended = True
        self._news.set()
        if self._complete:
            self._connection.finish(self._stream_id)

    def wake(self) -> None:
        """Look again whether there is room to send."""
        self._may_send.set()

    def leave(self) -> None:
        """Take note that the client is gone."""
        self._gone = True
        self._discard()
        self._news.set()
        self._may_send.set()

    def _discard(self) -> None:
        """Give back the room that an unread body takes up in the connection's window."""
        if self._body:
            self._connection.acknowledge(self._stream_id, len(self._body))
            self._body.clear()

    # -- the application's side --------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer; what it leaves unfinished is cut."""
        try:
            await app(self._scope, self._receive, self._send)
        except Exception as error:
            log.error("request.failed", path=self._scope["path"], exc_info=error)
            if not self._started:
                await self._send({"type": "http.response.start", "status": 500})
                await self._send({"type": "http.response.body"})
        finally:
            if not self._complete and not self._gone:
                self._connection.reset(self._stream_id, ErrorCodes.INTERNAL_ERROR)
                self._discard()
            if not self._complete or self._body_ended:
                self._connection.finish(self._stream_id)
            self._gone = True

    async def _receive(self) -> Message:
        if self._expects and not self._started and not self._gone:
            self._expects = False
            self._connection.send_head(self._stream_id, 100, [], end=False)
        while not (self._body or (self._body_ended and not self._end_told)):
            if self._gone or self._complete:
                break
            self._news.clear()
            await self._news.wait()
        if self._gone or self._complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._end_told = self._body_ended
        if body:
            self._connection.acknowledge(self._stream_id, len(body))
        return {"type": "http.request", "body": body, "more_body": not self._body_ended}

    async def _send(self, message: Message) -> None:
        if self._gone:
            return
        beginning = message["type"] == "http.response.start"
        if beginning is self._started or self._complete:
            raise RuntimeError(f"{message['type']} is out of turn")
        if beginning:
            self._send_head(message["status"], message.get("headers", ()))
        else:
            await self._send_body(message.get("body", b""), message.get("more_body", False))

    def _send_head(self, status: int, given: Iterable[tuple[bytes, bytes]]) -> None:
        headers = [*self._default_headers]
        for original, value in given:
            name = original.lower()
            if name == b"content-length":
                self._owed = int(value)
            if name not in _FORBIDDEN:
                headers.append((name, value))
        self._bodiless = self._scope["method"] == "HEAD" or status in (204, 304)
        self._started = True
        self._connection.send_head(self._stream_id, status, headers, end=self._bodiless)

    async def _send_body(self, body: bytes, more: bool) -> None:
        if not self._bodiless:
            if self._owed is not None:
                self._owed -= len(body)
                if self._owed < 0 or (self._owed and not more):
                    raise RuntimeError("the body's length is not the one that was announced")
            rest = memoryview(body)
            while len(rest) or not more:
                room = self._connection.room(self._stream_id) if len(rest) else 0
                if len(rest) and not room:
                    self._may_send.clear()
                    await self._may_send.wait()
                    if self._gone:
                        return
                    continue
                piece, rest = rest[:room], rest[room:]
                end = not more and not len(rest)
                self._connection.send_data(self._stream_id, piece, end=end)
                if end:
                    break
        if not more:
            self._complete = True
            self._news.set()
            self._discard()
