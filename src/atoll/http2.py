"""HTTP/2 for uvicorn's server, which has none of its own that withstands a slow client.

The frames are h2's matter; this gives each stream an ASGI exchange with the promises of the
HTTP/1.1 side: an answer that the application breaks off ends in RST_STREAM, a client that resets a
stream is seen at once, and a slow reader or writer holds up its own stream alone, with bounded
memory: unread bodies by the windows we grant, unsent ones by those of the client.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from atoll.exchange import Exchange
from atoll.http import MAX_HEAD, MAX_UNSENT

MAX_STREAMS = 250
"""Requests open at the same time on one connection."""
STREAM_WINDOW = 256 << 10
"""Bytes of one request's body that wait to be read, at most."""
CONNECTION_WINDOW = 16 << 20
"""The same for all requests of a connection together."""
_SPARE_RESETS = 200
"""Requests that a client may take back, beyond as many as it lets come to an end."""

_INITIAL_WINDOW = 65535
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"(/[!\"$-~]*)|\*")


class Http2Protocol(asyncio.Protocol):
    """One connection. It has the constructor and the `shutdown` that uvicorn's server expects."""

    _transport: asyncio.Transport

    def __init__(self, config: Config, server_state: ServerState) -> None:
        self._config = config
        self._state = server_state
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._exchanges: dict[int, Exchange] = {}
        self._writable = True
        self._closing = False
        self._done = 0
        self._taken_back = 0
        self._idle: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Handle | None = None

    # -- the event loop's side ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        self._transport = transport
        self._state.connections.add(self)  # type: ignore[arg-type]  # they are to be shut down
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self._h2.max_inbound_frame_size = self._h2.local_settings.max_frame_size
        self._h2.decoder.max_header_list_size = MAX_HEAD
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - _INITIAL_WINDOW)
        self.flush()
        self._rest()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._state.connections.discard(self)
        for handle in (self._idle, self._flushing):
            if handle is not None:
                handle.cancel()
        self._hang_up()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            for event in self._h2.receive_data(data):
                self._handle(event)
        except ProtocolError:
            self.flush()  # h2 has said why
            self._hang_up()
            return
        self.flush()
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """Called by the event loop."""

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self._writable = False

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._writable = True
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._wake_all()

    def shutdown(self) -> None:
        """Take no more requests; close when the last one is answered. Called by uvicorn."""
        self._closing = True
        if not self._exchanges:
            self._close()

    # -- frames ------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._begin(event)
        elif isinstance(event, DataReceived):
            exchange = self._exchanges.get(event.stream_id)
            padding = event.flow_controlled_length - len(event.data)
            if exchange is None or not exchange.feed(event.data):
                padding = event.flow_controlled_length
            if padding:
                self.acknowledge(event.stream_id, padding)
        elif isinstance(event, StreamEnded):
            if event.stream_id in self._exchanges:
                self._exchanges[event.stream_id].feed_end()
        elif isinstance(event, StreamReset):
            self._take_back(event.stream_id)
        elif isinstance(event, WindowUpdated) and event.stream_id:
            if event.stream_id in self._exchanges:
                self._exchanges[event.stream_id].wake()
        elif isinstance(event, WindowUpdated | RemoteSettingsChanged):
            self._wake_all()

    def _begin(self, event: RequestReceived) -> None:
        if self._closing:
            self._h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            return
        scope = self._read_head(event)
        if scope is None:
            self._h2.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        exchange = Exchange(self, event.stream_id, scope, self._state.default_headers)
        self._exchanges[event.stream_id] = exchange
        task = self._loop.create_task(exchange.run(self._config.loaded_app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _read_head(self, event: RequestReceived) -> Scope | None:
        """The request as ASGI has it, or None when HTTP/1.1 could not express it."""
        pseudo: dict[bytes, bytes] = {}
        headers: list[tuple[bytes, bytes]] = []
        for name, value in event.headers:
            assert isinstance(name, bytes)
            assert isinstance(value, bytes)
            if name.startswith(b":"):
                pseudo[name] = value
            elif name != b"host":  # the same as :authority, or instead of it
                headers.append((name, value))
            else:
                pseudo.setdefault(b":authority", value)
        method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if not _METHOD.fullmatch(method) or method == b"CONNECT" or not _TARGET.fullmatch(target):
            return None
        lengths = [value for name, value in headers if name == b"content-length"]
        if len(lengths) > 1:
            return None
        if event.stream_ended is None and not lengths:
            # How HTTP/1.1 says that there is a body; there is no other way to tell the application.
            headers.append((b"transfer-encoding", b"chunked"))
        raw_path, _, query = target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "scheme": "https",
            "method": method.decode(),
            "root_path": "",
            "path": unquote(raw_path.decode()),
            "raw_path": raw_path,
            "query_string": query,
            "headers": [(b"host", pseudo.get(b":authority", b"")), *headers],
            "state": {},
        }

    def _take_back(self, stream_id: int) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is None:
            return
        exchange.leave()
        self._rest()
        # Requests that are only begun cost the client nothing (CVE-2023-44487).
        self._taken_back += 1
        if self._taken_back > _SPARE_RESETS + self._done:
            self._close(ErrorCodes.ENHANCE_YOUR_CALM)

    # -- the exchanges' side -----------------------------------------------------------------

    def flush(self) -> None:
        """Send what h2 has ready."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def flush_soon(self) -> None:
        """Send what h2 has ready when this turn of the loop is over, so in one piece."""
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)

    def room(self, stream_id: int) -> int:
        """How many bytes of a body the stream may send now."""
        if not self._writable:
            return 0
        window = self._h2.local_flow_control_window(stream_id)
        return max(0, min(window, self._h2.max_outbound_frame_size))

    def send_head(
        self, stream_id: int, status: int, headers: list[tuple[bytes, bytes]], *, end: bool
    ) -> None:
        """Send a status with its headers."""
        lines = [(b":status", b"%d" % status), *headers]
        self._h2.send_headers(stream_id, lines, end_stream=end)
        self.flush_soon()

    def send_data(self, stream_id: int, data: memoryview, *, end: bool) -> None:
        """Send so much of a body as there is room for."""
        self._h2.send_data(stream_id, data, end_stream=end)
        self.flush()

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send as much again."""
        if not self._transport.is_closing():
            self._h2.acknowledge_received_data(size, stream_id)
            self.flush_soon()

    def reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Cut a stream."""
        if stream_id in self._exchanges and not self._transport.is_closing():
            self._h2.reset_stream(stream_id, code)
            self.flush()

    def finish(self, stream_id: int) -> None:
        """Forget an exchange that has come to its end."""
        if self._exchanges.pop(stream_id, None) is not None:
            self._done += 1
            self._state.total_requests += 1
            self._rest()

    def _wake_all(self) -> None:
        for exchange in self._exchanges.values():
            exchange.wake()

    def _rest(self) -> None:
        """With no request open, close the connection: soon, or now when the server stops."""
        if self._exchanges or self._transport.is_closing():
            return
        if self._closing:
            self._close()
        elif self._idle is None:
            self._idle = self._loop.call_later(self._config.timeout_keep_alive, self._close)

    def _close(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        if not self._transport.is_closing():
            self._h2.close_connection(code)
            self.flush()
            self._hang_up()

    def _hang_up(self) -> None:
        self._closing = True
        self._transport.close()
        for exchange in self._exchanges.values():
            exchange.leave()
        self._exchanges.clear()
