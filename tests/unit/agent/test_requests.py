"""The agent against a host that errs: it answers with an error and lives on."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from .conftest import Guest
from .test_hostile_agent import frame, message


async def exchange(guest: Guest, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes, and return what comes until the agent or this end closes."""
    connection = await guest.dial()
    loop = asyncio.get_running_loop()
    received = b""
    try:
        await loop.sock_sendall(connection, data)
        if end:
            connection.shutdown(1)
        async with asyncio.timeout(5):
            while piece := await loop.sock_recv(connection, 65536):
                received += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        connection.close()
    return received


def read_error(reply: bytes) -> str:
    assert reply[:1] == b"J", reply
    error = json.loads(reply[5 : 5 + int.from_bytes(reply[1:5], "big")])["error"]
    assert isinstance(error["message"], str)
    return str(error["code"])


USER = {"user": "user"}
BAD_REQUESTS: list[dict[str, Any]] = [
    {},
    {"op": 5},
    {"op": "unknown"},
    {"op": "stat"},
    {"op": "stat", "path": 5, **USER},
    {"op": "stat", "path": "/x", "user": ["user"]},
    {"op": "list", "path": "/", "depth": -1, **USER},
    {"op": "list", "path": "/", "depth": "1", **USER},
    {"op": "list", "path": "/", "depth": True, **USER},
    {"op": "read", "path": "/etc/passwd", "offset": -1, **USER},
    {"op": "read", "path": "/etc/passwd", "length": 2**64, **USER},
    {"op": "start", "cmd": "x", "args": "no list", "envs": {}, **USER},
    {"op": "start", "cmd": "x", "args": [1], "envs": {}, **USER},
    {"op": "start", "cmd": "x", "args": [], "envs": [1], **USER},
    {"op": "start", "cmd": "x", "args": [], "envs": {"A": 1}, **USER},
    {"op": "start", "cmd": "x", "args": [], "envs": {}, "cwd": 5, **USER},
    {"op": "start", "cmd": "x", "args": [], "envs": {}, "pty": 5, **USER},
    {"op": "start", "cmd": "x", "args": [], "envs": {}, "pty": {"cols": "a"}, **USER},
    {"op": "start", "cmd": "/bin/\ud800", "args": [], "envs": {}, **USER},
    {"op": "signal"},
    {"op": "signal", "pid": "1"},
    {"op": "signal", "pid": 0, "signal": 9},
    {"op": "signal", "pid": -1, "signal": 9},
    {"op": "configure", "files": [1]},
    {"op": "configure", "files": {"/x": 1}},
]


@pytest.mark.parametrize("request_", BAD_REQUESTS, ids=itertools.count())
async def test_a_bad_request_keeps_the_connection(guest: Guest, request_: dict[str, Any]) -> None:
    reply = await exchange(guest, message(request_))
    assert read_error(reply) == "invalid_argument"


async def test_the_connection_serves_again_after_errors(guest: Guest) -> None:
    connection = await guest.dial()
    loop = asyncio.get_running_loop()
    for request in (*BAD_REQUESTS, {"op": "hello"}):
        await loop.sock_sendall(connection, message(request))
        reply = await loop.sock_recv(connection, 65536)
    assert b'"ok"' in reply
    connection.close()


@pytest.mark.parametrize(
    "data",
    [
        frame(b"D", b"content out of place"),
        frame(b"X", b""),
        frame(b"O", b"x"),
        frame(b"J", b""),
        frame(b"J", b"{"),
        frame(b"J", b"[1]"),
        frame(b"J", b'"\\'),
        frame(b"J", b'{"op":"\\ud8"}'),
        frame(b"J", b"\xff"),
        frame(b"J", b"[" * 100_000),
        frame(b"J", b'{"op":' + b"9" * 10_000 + b"}"),
        b"J\xff\xff\xff\xff",
        b"\0\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        message({"op": "write", "path": "f", "user": "user", "body": True}) + frame(b"D", b""),
        message({"op": "write", "path": "f", "user": "user", "body": True}) + frame(b"J", b"{}"),
        message({"op": "write", "path": "f", "user": "user", "body": True}) + frame(b"X", b"x"),
        message({"op": "write", "path": "f", "user": "user", "body": True})
        + b"D"
        + (256 * 1024 + 1).to_bytes(4, "big"),
    ],
    ids=itertools.count(),
)
async def test_broken_framing_is_told_and_ends_the_connection(guest: Guest, data: bytes) -> None:
    reply = await exchange(guest, data, end=False)
    assert read_error(reply) == "invalid_argument"
    assert (await guest.run("echo alive")).stdout == b"alive\n"
    assert not (guest.home / "f").exists()


async def test_a_body_after_an_error_is_passed_over(guest: Guest) -> None:
    write = {"op": "write", "path": "/nowhere/x", "user": "user", "body": True}
    data = message(write) + frame(b"D", b"x" * 200_000) * 3 + frame(b"X", b"")
    reply = await exchange(guest, data + message({"op": "hello"}))
    assert read_error(reply) == "permission_denied"
    assert reply.count(b'"ok"') == 1


async def test_requests_may_come_in_any_pieces(guest: Guest) -> None:
    connection = await guest.dial()
    loop = asyncio.get_running_loop()
    write = {"op": "write", "path": "f", "user": "user", "body": True}
    data = message(write) + frame(b"D", b"ab") + frame(b"D", b"cd") + frame(b"X", b"")
    for position in range(len(data)):
        await loop.sock_sendall(connection, data[position : position + 1])
        await asyncio.sleep(0)
    assert b'"ok"' in await loop.sock_recv(connection, 65536)
    connection.close()
    assert (guest.home / "f").read_bytes() == b"abcd"


async def test_noise(guest: Guest) -> None:
    chance = random.Random(11)
    good = [
        message({"op": "stat", "path": "/etc", "user": "user"}),
        message({"op": "write", "path": "f", "user": "user", "body": True}),
        frame(b"D", b"abc"),
        frame(b"X", b""),
        message({"op": "list", "path": "/etc", "depth": 2, "user": "user"}),
    ]
    for _ in range(200):
        data = bytearray(b"".join(chance.choices(good, k=chance.randint(1, 5))))
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        await exchange(guest, bytes(data))
    assert (await guest.run("echo alive")).stdout == b"alive\n"


async def test_clients_that_vanish_at_any_moment(guest: Guest) -> None:
    request = message(
        {"op": "start", "cmd": "/bin/sh", "args": ["-c", "echo x"], "envs": {}, "user": "user"}
    )
    listing = message({"op": "list", "path": "/usr/lib", "depth": 3, "user": "user"})
    loop = asyncio.get_running_loop()
    for data in (request, listing, request[:20]):
        for _ in range(30):
            connection = await guest.dial()
            await loop.sock_sendall(connection, data)
            connection.close()
    assert (await guest.run("echo alive")).stdout == b"alive\n"


async def test_out_of_descriptors(guest: Guest) -> None:
    """More connections than the agent has descriptors for: the rest wait, nothing spins or dies."""
    import resource

    _, hard = resource.prlimit(guest.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(guest.pid, resource.RLIMIT_NOFILE, (64, hard))
    connections = [await guest.dial() for _ in range(150)]
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.3)
    await loop.sock_sendall(connections[0], message({"op": "hello"}))
    assert b'"ok"' in await loop.sock_recv(connections[0], 1000)
    start = {"op": "start", "cmd": "/bin/true", "args": [], "envs": {}, "user": "user"}
    await loop.sock_sendall(connections[1], message(start))
    assert read_error(await loop.sock_recv(connections[1], 1000)) == "resource_exhausted"
    for connection in connections:
        connection.close()
    assert (await guest.run("echo alive")).stdout == b"alive\n"
