"""Answers to sandboxes' questions about names.

A sandbox asks the gateway address; what it asks is relayed to the host's own resolvers, which the
sandbox cannot reach itself (they often are in a private network). Messages pass unread but for the
identifier, which is drawn anew for the way out, on a new port, so that answers cannot be guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from atoll.errors import HostError

RESOLV_CONF = Path("/etc/resolv.conf")

_PORT = 53
_HEADER_SIZE = 12
_MAX_MESSAGE = 65535
_MAX_QUERIES = 1024
_MAX_QUERIES_EACH = 32
_UPSTREAM_SECONDS = 3.0
_IDLE_SECONDS = 10.0
_BIND_ATTEMPTS = 20
_RESPONSE_BIT, _TRUNCATED_BIT, _SERVER_FAILURE = 0x80, 0x02, 2
_TYPE_NS = 2

_Address = tuple[str, int]
_Ask = Callable[[str, bytes], Awaitable[bytes]]


class DnsForwarder(asyncio.DatagramProtocol):
    """A relay for DNS over UDP and TCP, bounded in what it holds for all and for each sandbox."""

    def __init__(self, block: IPv4Network, resolvers: Sequence[str] = ()) -> None:
        """Serve the addresses of `block`; without `resolvers`, ask those of the host."""
        self._block = block
        self._resolvers = Resolvers(resolvers)
        # What is under way, for each client in the order in which it came.
        self._busy: dict[str, dict[asyncio.Task[None], None]] = {}
        self._total = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, address: IPv4Address) -> int:
        """Listen on a free port of an address of the host and return it.

        Not on port 53: another resolver on this machine may have that one on all addresses.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_BIND_ATTEMPTS):
            transport, _ = await loop.create_datagram_endpoint(
                lambda: self, local_addr=(str(address), 0)
            )
            port: int = transport.get_extra_info("sockname")[1]
            try:
                self._server = await asyncio.start_server(self._serve, str(address), port)
            except OSError:  # taken for TCP
                transport.close()
                continue
            self._transport = transport
            return port
        raise HostError(f"no free port on {address}")

    async def stop(self) -> None:
        """Stop listening and drop what is under way."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        """Relay one question."""
        if len(data) < _HEADER_SIZE or data[2] & _RESPONSE_BIT or not self._admit(addr[0]):
            return
        self._spawn(self._answer(data, addr), addr[0])

    def error_received(self, exc: Exception) -> None:
        """Pass over what the network says about answers that came too late."""

    def _admit(self, client: str) -> bool:
        own = len(self._busy.get(client, ()))
        if IPv4Address(client) not in self._block or own >= _MAX_QUERIES_EACH:
            return False
        return self._total < _MAX_QUERIES or self._make_room(own)

    def _make_room(self, own: int) -> bool:
        """Give up the newest query of whoever has most, for one who has `own` under way.

        Else some clients with names that nobody answers would shut out all others.
        """
        greediest = max(self._busy, key=lambda each: len(self._busy[each]))
        if len(self._busy[greediest]) <= own + 1:
            return False
        newest = next(reversed(self._busy[greediest]))
        newest.cancel()
        self._forget(newest, greediest)
        return True

    def _spawn(self, work: Coroutine[None, None, None], client: str) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        self._busy.setdefault(client, {})[task] = None
        self._total += 1

        def finish(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            self._forget(done, client)

        task.add_done_callback(finish)
        return task

    def _forget(self, task: asyncio.Task[None], client: str) -> None:
        own = self._busy.get(client, {})
        if task in own:
            del own[task]
            self._total -= 1
            if not own:
                del self._busy[client]

    async def _answer(self, question: bytes, client: _Address) -> None:
        answer = await self._resolve(question, _ask_udp)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = writer.get_extra_info("peername")
        if client is None or not self._admit(client[0]):
            writer.transport.abort()
            return
        task = self._spawn(self._converse(reader, writer), client[0])
        # Not in the task itself: one that is given up early never begins.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    question = await _read_message(reader)
                if len(question) < _HEADER_SIZE:
                    break
                answer = await self._resolve(question, _ask_whole)
                writer.write(struct.pack(">H", len(answer)) + answer)
                async with asyncio.timeout(_IDLE_SECONDS):
                    await writer.drain()

    async def _resolve(self, question: bytes, ask: _Ask) -> bytes:
        for resolver in self._resolvers.current():
            outside = secrets.token_bytes(2) + question[2:]
            try:
                async with asyncio.timeout(_UPSTREAM_SECONDS):
                    answer = await ask(resolver, outside)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                continue
            return question[:2] + answer[2:]
        return _fail(question)


class Resolvers:
    """The addresses to ask: given ones, or those in the host's `resolv.conf` as it is now."""

    def __init__(self, fixed: Sequence[str] = (), file: Path = RESOLV_CONF) -> None:
        self._file = file
        self._fixed = bool(fixed)
        self._found = list(fixed)
        self._version: tuple[int, int] | None = None

    def current(self) -> Sequence[str]:
        """The resolvers in the order in which to ask them."""
        if not self._fixed:
            with contextlib.suppress(OSError):
                stat = self._file.stat()
                version = (stat.st_mtime_ns, stat.st_ino)
                if version != self._version:
                    self._found = _read_resolvers(self._file.read_text(errors="replace"))
                    self._version = version
        return self._found


async def is_answering(resolver: str) -> bool:
    """Whether a resolver answers at all, to a question about the root of all names."""
    question = secrets.token_bytes(2) + struct.pack(">5HBHH", 0x0100, 1, 0, 0, 0, 0, _TYPE_NS, 1)
    try:
        async with asyncio.timeout(_UPSTREAM_SECONDS):
            await _ask_udp(resolver, question)
    except (OSError, TimeoutError):
        return False
    return True


async def _ask_udp(resolver: str, question: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    family, address = _resolve_address(resolver)
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(address)  # answers from elsewhere are dropped by the kernel
        await loop.sock_sendall(sock, question)
        while True:
            answer = await loop.sock_recv(sock, _MAX_MESSAGE)
            if _answers(question, answer):
                return answer


async def _ask_whole(resolver: str, question: bytes) -> bytes:
    """Ask for an answer of any length. Most are short, and not every resolver speaks TCP."""
    answer = await _ask_udp(resolver, question)
    return await _ask_tcp(resolver, question) if answer[2] & _TRUNCATED_BIT else answer


async def _ask_tcp(resolver: str, question: bytes) -> bytes:
    _, address = _resolve_address(resolver)
    reader, writer = await asyncio.open_connection(address[0], _PORT)
    try:
        writer.write(struct.pack(">H", len(question)) + question)
        answer = await _read_message(reader)
    finally:
        writer.transport.abort()
    if not _answers(question, answer):
        raise ConnectionError("the resolver answered another question")
    return answer


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">H", await reader.readexactly(2))
    return await reader.readexactly(length)


def _answers(question: bytes, answer: bytes) -> bool:
    return (
        len(answer) >= _HEADER_SIZE
        and answer[:2] == question[:2]
        and bool(answer[2] & _RESPONSE_BIT)
    )


def _fail(question: bytes) -> bytes:
    """The answer that says that no resolver could be asked, or none answered."""
    flags = bytes([question[2] | _RESPONSE_BIT, question[3] & 0xF0 | _SERVER_FAILURE])
    return question[:2] + flags + question[4:]


def _resolve_address(resolver: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    found = socket.getaddrinfo(resolver, _PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, address = found[0]
    return family, address  # type: ignore[return-value]


def _read_resolvers(text: str) -> list[str]:
    lines = (line.split() for line in text.splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
