"""Requests to services inside sandboxes, streamed both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

import aiohttp
from starlette.types import Receive, Scope, Send

from atoll.doors.address import Address
from atoll.doors.answers import answer_bad_service, header
from atoll.doors.headers import BadAnswer, inward, outward
from atoll.doors.lines import Line, Lines
from atoll.doors.relay import relay
from atoll.doors.upstream import Lookup, open_session, service_url
from atoll.errors import AgentFailed
from atoll.sandboxes.model import Sandbox

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_STALL_SECONDS = 600.0
"""How long a service may take nothing of a request's body. Meanwhile nobody would notice that the
client has left."""


class _ClientGone(Exception):
    """The client left in the middle of its request's body, which so must not end cleanly."""


class Proxy:
    """Passes requests on."""

    def __init__(self, lines: Lines, lookup: Lookup) -> None:
        self._lines = lines
        self._lookup = lookup
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close what is open to services."""
        for session in self._sessions.values():
            await session.close()

    def _session(self, *, keep: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(keep)
        if session is None:
            session = self._sessions[keep] = open_session(self._lookup, keep=keep)
        return session

    async def pass_on(
        self, sandbox: Sandbox, address: Address, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass one request on. Raises `PortClosed` or `SandboxGone` when nothing was answered."""
        exchange = relay if scope["type"] == "websocket" else self._exchange
        await self._lines.run(
            sandbox, send, lambda line: exchange(sandbox, address, scope, receive, line)
        )

    async def _exchange(
        self, sandbox: Sandbox, address: Address, scope: Scope, receive: Receive, line: Line
    ) -> None:
        headers = inward(scope, sandbox, address)
        url = service_url(sandbox, address.port, scope["raw_path"], scope["query_string"])
        patience = asyncio.timeout(None)
        client = _Client(receive, line, patience)
        body = client.read_body() if _has_body(scope) else None
        if body is None:
            client.watch()
        # A kept connection may be closed by the service just when a request is sent on it.
        repeatable = body is None and scope["method"] in _SAFE_METHODS
        if not repeatable:
            headers["Connection"] = "close"
        try:
            async with (
                patience,
                self._session(keep=repeatable).request(
                    scope["method"],
                    url,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                ) as response,
            ):
                try:
                    await _answer(response, address, line)
                finally:
                    # Unless it was read to its end, the connection is of no more use.
                    response.close()
        except (aiohttp.ClientError, BadAnswer, OSError, ValueError) as error:
            # A stream that broke off inside must break off outside too.
            if line.started:
                raise AgentFailed(f"the service broke off its answer: {error}") from error
            await answer_bad_service(scope, line.send, sandbox.sandbox_id, address.port)
        finally:
            client.forget()


async def _answer(response: aiohttp.ClientResponse, address: Address, line: Line) -> None:
    if not 200 <= response.status <= 599:
        raise BadAnswer("a status that no final answer has")
    headers = outward(response.raw_headers, address, response.status)
    await line.send({"type": "http.response.start", "status": response.status, "headers": headers})
    with _ending_with_connection(response):
        async for chunk in response.content.iter_any():
            await line.send({"type": "http.response.body", "body": chunk, "more_body": True})
    await line.send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def _ending_with_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Break the body off when the connection ends before it.

    The library does so too, but not when it closed the connection itself, over a malformed chunk.
    """
    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None
    if closed is None:
        yield
        return

    def break_off(closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # so that it counts as seen
        if not response.content.is_eof():
            response.content.set_exception(aiohttp.ClientPayloadError("the connection ended"))

    closed.add_done_callback(break_off)
    try:
        yield
    finally:
        closed.remove_done_callback(break_off)  # the connection may serve further requests


class _Client:
    """The client's side of an exchange: its body, and whether it is still there."""

    def __init__(self, receive: Receive, line: Line, patience: asyncio.Timeout) -> None:
        self._receive = receive
        self._line = line
        self._patience = patience
        self._watch: asyncio.Task[None] | None = None

    async def read_body(self) -> AsyncGenerator[bytes]:
        """The body, as it comes; afterwards the client is watched."""
        first = asyncio.ensure_future(self._receive())
        try:
            await asyncio.sleep(0)
            if not first.done():
                yield b""  # The library sends the head no sooner than something of the body.
            message = await first
        finally:
            first.cancel()
        while True:
            if message["type"] == "http.disconnect":
                self._line.sever()
                raise _ClientGone
            if chunk := message.get("body", b""):
                self._patience.reschedule(asyncio.get_running_loop().time() + _STALL_SECONDS)
                yield chunk
                self._patience.reschedule(None)
            if not message.get("more_body", False):
                break
            message = await self._receive()
        self.watch()

    def watch(self) -> None:
        """Cut the line when the client leaves. There is no more body to come."""
        self._watch = asyncio.create_task(self._line.watch(self._receive))

    def forget(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.cancel()


def _has_body(scope: Scope) -> bool:
    length = header(scope, b"content-length")
    return header(scope, b"transfer-encoding") is not None or length not in (None, b"0")
