"""A client that speaks HTTP/2 frame by frame, as friends and enemies do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamReset

E = TypeVar("E", bound=Event)


class Frames:
    """One connection."""

    def __init__(self, sock: socket.socket, authority: str) -> None:
        self.sock = sock
        self.h2 = H2Connection()
        self._authority = authority
        self._events: list[Event] = []

    def send(self) -> None:
        """Send what is ready."""
        self.sock.sendall(self.h2.data_to_send())

    def request(self, method: str, path: str, headers: dict[str, str], *, end: bool = True) -> int:
        """Begin a request; returns its stream."""
        stream = self.h2.get_next_available_stream_id()
        lines = [(":method", method), (":path", path), (":scheme", "https")]
        lines += [(":authority", self._authority), *((k.lower(), v) for k, v in headers.items())]
        self.h2.send_headers(stream, lines, end_stream=end)
        self.send()
        return stream

    def wait(self, kind: type[E], stream: int | None = None) -> E:
        """The next event of a kind; what else comes meanwhile stays for later."""
        while True:
            for event in self._events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    self._events.remove(event)
                    return event
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the server hung up")
            self._events += self.h2.receive_data(data)
            self.send()

    def status(self, stream: int) -> int:
        """The status of the answer."""
        headers: Any = self.wait(ResponseReceived, stream).headers
        return int(dict(headers)[b":status"])

    def reset_code(self, stream: int) -> int:
        """The code with which the server cuts the stream."""
        return int(self.wait(StreamReset, stream).error_code)

    def goodbye_code(self) -> int | None:
        """The code with which the server ends the connection."""
        code = self.wait(ConnectionTerminated).error_code
        return None if code is None else int(code)

    def data(self, stream: int, *, ack: bool = True) -> bytes:
        """The next piece of the answer's body."""
        event = self.wait(DataReceived, stream)
        if ack:
            self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            self.send()
        return event.data


@contextmanager
def open_frames(port: int, context: ssl.SSLContext) -> Iterator[Frames]:
    """Connect; the certificate has to be good for 127.0.0.1."""
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        assert sock.selected_alpn_protocol() == "h2"
        frames = Frames(sock, f"127.0.0.1:{port}")
        frames.h2.initiate_connection()
        frames.send()
        yield frames
