from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

import pytest

from atoll.isolation import dns
from atoll.isolation.dns import DnsForwarder, Resolvers

QUESTION = struct.pack(">6H", 77, 0x0100, 1, 0, 0, 0) + b"\1x\0\0\1\0\1"


class Upstream(asyncio.DatagramProtocol):
    """A resolver that answers with the question and one letter more, or not at all."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.flags = 0x80
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.seen.append(data)
        if self.silent:
            return
        self.transport.sendto(b"no answer to anything", addr)
        self.transport.sendto(data[:2] + bytes([data[2] | self.flags]) + data[3:] + b"u", addr)


async def _answer_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (length,) = struct.unpack(">H", await reader.readexactly(2))
    data = await reader.readexactly(length)
    answer = data[:2] + bytes([data[2] | 0x80]) + data[3:] + b"t" * 5000
    writer.write(struct.pack(">H", len(answer)) + answer)
    await writer.drain()
    writer.close()


async def _listen() -> tuple[asyncio.DatagramTransport, Upstream, asyncio.Server, int]:
    """Listen on one port for both protocols."""
    loop = asyncio.get_running_loop()
    while True:
        transport, protocol = await loop.create_datagram_endpoint(
            Upstream, local_addr=("127.0.0.1", 0)
        )
        port: int = transport.get_extra_info("sockname")[1]
        try:
            server = await asyncio.start_server(_answer_tcp, "127.0.0.1", port)
        except OSError:  # taken for TCP
            transport.close()
            continue
        return transport, protocol, server, port


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Upstream]:
    """A resolver on loopback, on a port that is not privileged."""
    transport, protocol, server, port = await _listen()
    monkeypatch.setattr(dns, "_PORT", port)
    monkeypatch.setattr(dns, "_UPSTREAM_SECONDS", 0.3)
    yield protocol
    transport.close()
    server.close()
    await server.wait_closed()


@pytest.fixture
async def forwarder(upstream: Upstream) -> AsyncIterator[int]:
    """The port of a forwarder that asks the resolver."""
    made = DnsForwarder(IPv4Network("127.0.0.0/8"), ["127.0.0.1"])
    yield await made.start(IPv4Address("127.0.0.1"))
    await made.stop()


async def _ask(port: int, question: bytes, seconds: float = 2, source: str = "127.0.0.1") -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, question)
        async with asyncio.timeout(seconds):
            return await loop.sock_recv(sock, 65535)


async def test_a_question_is_relayed_with_another_identifier(
    upstream: Upstream, forwarder: int
) -> None:
    answers = [await _ask(forwarder, QUESTION) for _ in range(4)]
    assert all(each == QUESTION[:2] + b"\x81" + QUESTION[3:] + b"u" for each in answers)
    assert all(each[2:] == QUESTION[2:] for each in upstream.seen)
    assert len({each[:2] for each in upstream.seen}) > 1


async def test_silence_is_answered_with_a_failure(upstream: Upstream, forwarder: int) -> None:
    upstream.silent = True
    answer = await _ask(forwarder, QUESTION)
    assert answer[:2] == QUESTION[:2]
    assert answer[3] & 0x0F == 2


async def test_answers_and_scraps_are_not_relayed(upstream: Upstream, forwarder: int) -> None:
    for bad in (b"", b"short", QUESTION[:2] + b"\x81" + QUESTION[3:]):
        with pytest.raises(TimeoutError):
            await _ask(forwarder, bad, 0.2)
    assert upstream.seen == []


async def test_over_tcp_a_long_answer_comes_whole(upstream: Upstream, forwarder: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", forwarder)
    for flags, size in ((0x80, 1), (0x82, 5000), (0x80, 1)):
        upstream.flags = flags
        writer.write(struct.pack(">H", len(QUESTION)) + QUESTION)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        answer = await reader.readexactly(length)
        assert answer[:2] == QUESTION[:2]
        assert len(answer) == len(QUESTION) + size
    writer.write(b"\0\1x")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()


async def test_only_the_sandboxes_are_answered(upstream: Upstream) -> None:
    made = DnsForwarder(IPv4Network("100.64.0.0/20"), ["127.0.0.1"])
    port = await made.start(IPv4Address("127.0.0.1"))
    with pytest.raises(TimeoutError):
        await _ask(port, QUESTION, 0.2)
    assert upstream.seen == []
    await made.stop()


async def test_one_client_cannot_take_all(
    upstream: Upstream, forwarder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "_MAX_QUERIES_EACH", 3)
    upstream.silent = True
    asked = await asyncio.gather(
        *(_ask(forwarder, QUESTION, 1) for _ in range(10)), return_exceptions=True
    )
    assert len(upstream.seen) == 3
    assert sum(isinstance(each, bytes) for each in asked) == 3
    assert len(await _ask(forwarder, QUESTION)) > 0


async def test_those_with_most_under_way_make_room(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "_MAX_QUERIES", 8)
    monkeypatch.setattr(dns, "_MAX_QUERIES_EACH", 4)
    monkeypatch.setattr(dns, "_UPSTREAM_SECONDS", 5)
    upstream.silent = True
    made = DnsForwarder(IPv4Network("127.0.0.0/8"), ["127.0.0.1"])
    port = await made.start(IPv4Address("127.0.0.1"))
    greedy = [
        asyncio.create_task(_ask(port, QUESTION, 1.5, f"127.0.0.{2 + number % 2}"))
        for number in range(20)
    ]
    await asyncio.sleep(0.3)
    assert len(upstream.seen) == 8
    upstream.silent = False
    assert len(await _ask(port, QUESTION, 1, "127.0.0.9")) > 0
    for each in greedy:
        each.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await made.stop()
    assert made._total == 0
    assert not made._busy


async def test_a_conversation_that_makes_room_is_closed(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "_MAX_QUERIES", 4)
    made = DnsForwarder(IPv4Network("127.0.0.0/8"), ["127.0.0.1"])
    port = await made.start(IPv4Address("127.0.0.1"))
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    await asyncio.sleep(0.1)
    assert len(await _ask(port, QUESTION, 1, "127.0.0.9")) > 0
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(idle[3][0].read(), 1) == b""
    assert not idle[0][0].at_eof()
    for _, writer in idle:
        writer.close()
    await made.stop()


def test_the_hosts_resolvers_are_followed(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    resolvers = Resolvers((), file)
    assert resolvers.current() == []
    file.write_text(
        "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n"
    )
    assert resolvers.current() == ["10.0.0.1", "fe80::1%eth0"]
    file.write_text("nameserver 10.0.0.2\n")
    os.utime(file, ns=(1, 1))
    assert resolvers.current() == ["10.0.0.2"]
    assert Resolvers(["1.1.1.1"], file).current() == ["1.1.1.1"]
