"""What a client can have the server keep over HTTP/1.1 and WebSockets: little, not for long."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable

import pytest

from atoll import http
from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors
from tests.unit.doors.service import run_app
from tests.unit.doors.test_proxy import memory

_LINE = b"x-%d: " + b"y" * 1000 + b"\r\n"
_PING = b"\x89\xfd" + bytes(4) + bytes(125)


@pytest.fixture(params=["plain", "tls"])
def dial(doors: Doors, request: pytest.FixtureRequest) -> Callable[[], socket.socket]:
    """Connect to the port that speaks HTTP, or to the one that speaks it over TLS."""

    def dial() -> socket.socket:
        port = doors.port if request.param == "plain" else doors.tls_port
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        if request.param == "plain":
            return sock
        doors.tls.set_alpn_protocols(["http/1.1"])
        return doors.tls.wrap_socket(sock, server_hostname="127.0.0.1")

    return dial


def pour(sock: socket.socket) -> None:
    """Send 50 MB of header lines, or fewer if the server hangs up."""
    with contextlib.suppress(ConnectionError):
        for number in range(50_000):
            sock.sendall(_LINE % number)


def read_all(sock: socket.socket) -> bytes:
    """What the server says until it hangs up."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            said += data
    return said


def test_headers_without_end(dial: Callable[[], socket.socket]) -> None:
    before = memory()
    with dial() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        pour(sock)
        read_all(sock)
    assert memory() - before < 20 << 20


def test_headers_above_the_bound_are_answered(dial: Callable[[], socket.socket]) -> None:
    with dial() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(_LINE % n for n in range(70)))
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["code"] == 431


@pytest.mark.parametrize("more", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
def test_a_head_counts_however_it_comes(dial: Callable[[], socket.socket], more: bytes) -> None:
    """In one go with its end, and with a body and another request behind it."""
    lines = b"Host: a\r\nContent-Length: 4\r\n" + b"".join(_LINE % n for n in range(70)) + more
    with dial() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n" + lines + b"\r\nbodyGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        said = read_all(sock)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("after", [b"0\r\n", b"1\r\nx\r\n0\r\n"])
def test_trailers_without_end(dial: Callable[[], socket.socket], after: bytes) -> None:
    before = memory()
    with dial() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + after)
        pour(sock)
        read_all(sock)
    assert memory() - before < 20 << 20


def test_headers_below_the_bound_pass(dial: Callable[[], socket.socket]) -> None:
    lines = b"Host: a\r\nContent-Length: 4\r\n" + b"".join(_LINE % n for n in range(60)) + b"\r\n"
    with dial() as sock:
        for _ in range(2):
            for piece in (b"POST /x HTTP/1.1\r\n", lines[:40_000], lines[40_000:], b"body"):
                sock.sendall(piece)
            said = b""
            while b'"/x"}' not in said:
                said += sock.recv(65536)
            assert said.startswith(b"HTTP/1.1 200 ")


def test_bodies_in_many_pieces_are_no_headers(dial: Callable[[], socket.socket]) -> None:
    with dial() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            sock.sendall(b"1\r\nx\r\n" * 2000)
        sock.sendall(b"0\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        # What follows such a body in one go is the next request and nothing else.
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        assert sock.recv(65536)
        sock.sendall(bytes(200_000) + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        while b"/next" not in sock.recv(65536):
            pass


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"])
def test_a_head_that_does_not_come(
    dial: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(http, "_HEAD_SECONDS", 0.5)
    with dial() as sock:
        sock.sendall(begun)
        assert read_all(sock) == b""
    with dial() as sock:  # nor the head of a second request
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        if begun:
            sock.sendall(begun)
            assert b"HTTP/1.1" not in read_all(sock)


def test_time_for_a_head_is_not_time_for_an_answer(
    doors: Doors,
    sandbox: Sandbox,
    dial: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_HEAD_SECONDS", 0.3)
    with run_app() as service, dial() as sock:
        head = doors.headers(sandbox, service.port).items()
        lines = ["GET /ticks HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in head)]
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        said = b""
        while b"data: 4\n" not in said:
            data = sock.recv(65536)
            assert data, "the answer was cut"
            said += data


def test_a_flood_of_pings_is_not_kept_in_memory(
    doors: Doors, sandbox: Sandbox, dial: Callable[[], socket.socket]
) -> None:
    with run_app() as service, dial() as sock:
        lines = [f"{name}: {value}" for name, value in doors.headers(sandbox, service.port).items()]
        lines += ["Host: a", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        sock.sendall("\r\n".join(["GET /talk HTTP/1.1", *lines, "", ""]).encode())
        assert b" 101 " in sock.recv(65536)
        before = memory()
        sock.settimeout(1)
        with pytest.raises(TimeoutError):  # when the server has stopped reading
            sock.sendall(_PING * 800_000)
        assert memory() - before < 20 << 20
