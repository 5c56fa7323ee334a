"""uvicorn, with bounds on what a client may have us keep and without hands on our signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from atoll.doors.answers import answer_json

_LAST_WORDS_SECONDS = 1
_BREAK_SECONDS = 5
_STOPPING = {"code": 503, "message": "the server is stopping; try again when it is back"}

MAX_HEAD = 64 << 10
"""Bytes that the request line and the headers may have together."""
MAX_UNSENT = 1 << 20
"""Bytes that wait to be sent while more is taken in. Answers stop long before; a flood of frames
that want a reply does not."""
_HEAD_SECONDS = 60.0
"""How long a head may take, the first one from the moment of connecting."""

_BODY = b'{"code": 431, "message": "the headers exceed %d bytes"}' % MAX_HEAD
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds: the parser keeps whatever headers come, and waits for them for ever."""

    _unread = 0
    """Bytes since the beginning of a head, or since it or a piece of a body was complete: so all
    that the parser may keep, which is headers and trailers."""
    _in_head = True
    _moved = False
    """Whether something was completed by what came last."""
    _head = 0
    """Bytes of the head's parts, as far as it has come: what came with it does not count."""
    _refused = False
    """Whether a head was too large. Nothing that follows it is taken any more."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._drop_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._unread, self._in_head, self._head = 0, True, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._head += len(name) + len(value) + len(b": \r\n")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._drop_deadline()
        if self._refused:
            return
        if self._head > MAX_HEAD:
            self._refuse_head()
            return
        self._in_head, self._moved = False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._refused:
            return
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._refused:
            return
        self._moved = True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Called when a head asks for a WebSocket."""
        if not self._refused:
            super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._moved = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._unread = 0 if self._moved else self._unread + len(data)
        if self._unread > MAX_HEAD:
            self._refuse_head()
        elif self._deadline is None and self._is_idle():
            self._set_deadline()  # uvicorn's own for idle connections ended with the first byte

    def _refuse_head(self) -> None:
        self._refused = True
        if self._in_head and self._is_idle():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """WebSockets with a bound: pongs for a client that reads none would pile up."""

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """ASGI's `receive`, which goes on reading from the client."""
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            await self.writable.wait()
        return await super().receive()


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
