"""Connections to services inside sandboxes, for the HTTP client library."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from atoll.errors import PortClosed, SandboxGone
from atoll.sandboxes.model import Sandbox

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.tracing import Trace

_DIAL_SECONDS = 10.0
"""How long a service may take to accept a connection, which is a matter of its backlog alone."""
_MAX_HEADER = 64 * 1024
_KEEP_SECONDS = 4.0
"""How long an unused connection is kept: less than most services keep theirs."""

Lookup = Callable[[str], Sandbox | None]


async def dial(sandbox: Sandbox, port: int) -> socket.socket:
    """Connect to a port inside. Raises `PortClosed`, `SandboxGone`."""
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            return await sandbox.dial(port)
    except TimeoutError:
        raise PortClosed(port) from None


def service_url(sandbox: Sandbox, port: int, raw_path: bytes, query: bytes) -> URL:
    """The URL by which the connector finds the sandbox; path and query stay as they are."""
    return URL.build(
        scheme="http",
        host=sandbox.sandbox_id,
        port=port,
        path=raw_path.decode("latin-1"),
        query_string=query.decode("latin-1"),
        encoded=True,
    )


class SandboxConnector(aiohttp.BaseConnector):
    """Takes the host name of a URL for a sandbox's id and dials the sandbox."""

    def __init__(self, lookup: Lookup, *, keep: bool) -> None:
        seconds = _KEEP_SECONDS if keep else None
        super().__init__(force_close=not keep, keepalive_timeout=seconds, limit=0)
        self._lookup = lookup

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # The method that every connector of the library implements; it has no public counterpart.
        sandbox = self._lookup(req.url.host or "")
        if sandbox is None:
            raise SandboxGone("the sandbox ended")
        sock = await dial(sandbox, req.url.port or 0)
        try:
            _, protocol = await self._loop.create_connection(self._factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol


def open_session(lookup: Lookup, *, keep: bool) -> aiohttp.ClientSession:
    """A client that adds nothing to a request and takes nothing from an answer.

    With `keep` it uses connections again, and sends a request once more when the service closed its
    connection at that moment: so only what may be repeated is to be sent by it.
    It must be made while the event loop runs. Call it with redirects off: a service could lead it
    to another sandbox.
    """
    return aiohttp.ClientSession(
        connector=SandboxConnector(lookup, keep=keep),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
    )
