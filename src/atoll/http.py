"""uvicorn, with a bound on the head of a request and without hands on our signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from atoll.doors.answers import answer_json

_LAST_WORDS_SECONDS = 1
_BREAK_SECONDS = 5
_STOPPING = {"code": 503, "message": "the server is stopping; try again when it is back"}

MAX_HEAD = 64 << 10
"""Bytes that the request line and the headers may have together."""

_BODY = b'{"code": 431, "message": "the headers exceed %d bytes"}' % MAX_HEAD
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """The parser keeps whatever headers come; this ends a connection that sends no end of them."""

    _head = 0
    _in_head = True

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._head, self._in_head = 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()


class Orderly:
    """Answers what the server has to break off when it ends.

    uvicorn cancels the requests that are not done by then. Those that have no answer yet get 503,
    so that the client tries again; those that have the beginning of one are dropped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if begun:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await answer_json(scope, send, 503, _STOPPING, [(b"retry-after", b"1")])


class HttpServer(uvicorn.Server):
    """uvicorn's server; `accepting` is set as soon as it takes connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        config.app = Orderly(cast(ASGIApp, config.app))
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when connections are taken."""
        await super().startup(sockets)
        self.accepting.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, and see to it that requests which had to be broken off are through with it."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(list(self.server_state.tasks), timeout=_BREAK_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller: they end more than the HTTP part."""
        yield
