"""What an enemy sends, from outside and from inside: an error for him alone, nothing for others."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import CommandExitException, Sandbox
from e2b.exceptions import SandboxException

from tests.server import RunningServer


@pytest.fixture(autouse=True)
def bystander(server: RunningServer) -> Iterator[None]:
    """Another sandbox, and the server itself, work before and after."""
    with Sandbox.create(**server.options) as other:
        other.files.write("kept", "safe")
        yield
        began = time.monotonic()
        assert other.commands.run("cat kept").stdout == "safe"
        assert time.monotonic() - began < 5
    assert server.process.poll() is None


def resident(server: RunningServer) -> int:
    """The server's memory, in bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def routed(sandbox: Sandbox) -> dict[str, str]:
    return {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": str(sandbox._envd_access_token),
    }


def _endless(size: int) -> Iterator[bytes]:
    chunk = b'{"a": "' + b"x" * (1 << 20)
    for _ in range(size >> 20):
        yield chunk


@pytest.mark.parametrize("declared", [True, False])
def test_a_json_body_of_1_gb(server: RunningServer, declared: bool) -> None:
    before = resident(server)
    headers = dict(server.headers)
    if declared:
        headers["Content-Length"] = str((1 << 20) * 1024 + 7 * 1024)
    # The server may answer and hang up before the client has sent all: both are fine for it.
    try:
        answer = httpx.post(
            f"{server.url}/v2/sandboxes", headers=headers, content=_endless(1 << 30), timeout=60
        )
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass
    assert resident(server) - before < 64 << 20


def test_an_rpc_body_of_1_gb(server: RunningServer, sandbox: Sandbox) -> None:
    before = resident(server)
    headers = {**routed(sandbox), "Content-Type": "application/json"}
    try:
        answer = httpx.post(
            f"{server.url}/filesystem.Filesystem/Stat",
            headers=headers,
            content=_endless(1 << 30),
            timeout=60,
        )
        assert answer.status_code in (413, 429)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass
    assert resident(server) - before < 128 << 20


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 30])
def test_a_frame_with_a_false_length(server: RunningServer, sandbox: Sandbox, length: int) -> None:
    headers = {**routed(sandbox), "Content-Type": "application/connect+json"}
    frame = b"\x00" + struct.pack(">I", length) + b"{}"
    answer = httpx.post(f"{server.url}/process.Process/Start", headers=headers, content=frame)
    flags, size = answer.content[0], int.from_bytes(answer.content[1:5], "big")
    assert flags == 2
    assert "error" in json.loads(answer.content[5 : 5 + size])


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v2/sandboxes HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nE2b-Sandbox-Id: x\r\n y\r\n\r\n",
    ],
)
def test_what_is_not_http(server: RunningServer, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass  # it hung up on us, as it should
    assert httpx.get(f"{server.url}/health").status_code == 204


def test_a_fork_bomb(sandbox: Sandbox) -> None:
    sandbox.commands.run("bomb() { bomb | bomb & }; bomb", background=True)
    time.sleep(2)
    began = time.monotonic()
    # It may still run, or be refused for want of processes; it may not hang.
    with contextlib.suppress(SandboxException, CommandExitException):
        sandbox.commands.run("true", timeout=5)
    assert time.monotonic() - began < 10


def test_a_memory_bomb(sandbox: Sandbox) -> None:
    with pytest.raises((CommandExitException, SandboxException)):
        sandbox.commands.run("python3 -c 'x = bytearray(3 << 30)'", timeout=30)
    # Only the bomb died.
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


def test_a_full_disk(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("head -c 11G /dev/zero > x || { rm x; exit 1; }", timeout=110)
    assert "No space left" in caught.value.stderr
    sandbox.files.write("small", "still works")


def test_a_flood_of_output_does_not_fill_the_server(
    server: RunningServer, sandbox: Sandbox
) -> None:
    before = resident(server)
    handle = sandbox.commands.run("yes flood", background=True)
    time.sleep(3)  # nobody reads it meanwhile
    assert resident(server) - before < 64 << 20
    handle.kill()


def test_killing_everything_inside_ends_only_the_sandbox(server: RunningServer) -> None:
    victim = Sandbox.create(**server.options)
    with contextlib.suppress(SandboxException, CommandExitException):
        victim.commands.run("sudo kill -KILL -1", timeout=5)
    victim.kill()


@pytest.mark.parametrize(
    "path", ["/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw"]
)
def test_the_agents_own_routes_are_shut(server: RunningServer, sandbox: Sandbox, path: str) -> None:
    answer = httpx.post(f"{server.url}{path}", headers=routed(sandbox), json={})
    assert answer.status_code in (403, 404)


def test_no_secret_is_logged(server: RunningServer, sandbox: Sandbox) -> None:
    sandbox.commands.run("echo canary-output", envs={"SECRET": "canary-env"})
    httpx.get(f"{server.url}/sandboxes", headers={"X-API-Key": "canary-key"})
    log = server.log()
    for secret in (server.api_key, str(sandbox._envd_access_token), "canary-env", "canary-key"):
        assert secret not in log


def test_no_secret_is_logged_when_something_fails(server: RunningServer) -> None:
    """A database that is locked for too long: an error that nobody foresaw, with a traceback."""
    with contextlib.closing(sqlite3.connect(server.data_dir / "atoll.db")) as database:
        database.execute("begin exclusive")
        body = {"templateID": "base", "envVars": {"PW": "canary-failing"}}
        answer = httpx.post(
            f"{server.url}/v2/sandboxes", headers=server.headers, json=body, timeout=60
        )
        assert answer.status_code >= 500
        database.rollback()
    log = server.log()
    assert "OperationalError" in log
    assert "canary-failing" not in log
    assert server.api_key not in log


def test_headers_without_end(server: RunningServer) -> None:
    before = resident(server)
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
            while sent < 64 << 20:
                connection.sendall(b"X-A: " + b"y" * 4000 + b"\r\n")
                sent += 4007
        except OSError:
            pass
    assert sent < 16 << 20
    assert resident(server) - before < 32 << 20
