"""`GET /files`: a file of the sandbox as a stream."""

from __future__ import annotations

import asyncio
import mimetypes
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePosixPath
from urllib.parse import quote

from starlette.types import Receive, Scope

from atoll.agent.channel import Piece
from atoll.agent.model import Entry
from atoll.doors.answers import answer_bytes, header
from atoll.doors.e2b.conditions import Part, choose_part, is_conditional, last_modified
from atoll.doors.e2b.encodings import choose_encoding, deflate
from atoll.doors.e2b.entries import printable
from atoll.doors.lines import Line
from atoll.errors import AgentFailed
from atoll.sandboxes.model import Sandbox

_AT_ONCE = 64 * 1024
"""Bytes up to which a file is read whole before it is sent. It then has the length that was read:
files of /sys announce more than they hold."""

# The interpreter's own table, so that the answer does not depend on files of the host.
_types = mimetypes.MimeTypes(filenames=())


async def send_file(
    sandbox: Sandbox, scope: Scope, receive: Receive, line: Line, query: Mapping[str, str]
) -> None:
    """Answer with the content of the file that the query names, or a range of it."""
    accept = header(scope, b"accept-encoding")
    encoding = choose_encoding(accept.decode("latin-1") if accept is not None else None)
    agent = sandbox.agent
    path = query.get("path", "")
    user = query.get("username") or sandbox.template.user
    part: Part | None = None
    if is_conditional(scope):
        encoding = "identity"
        async with await agent.read_file(path, user=user, length=0) as probe:
            entry = probe.entry
        part = choose_part(scope, entry.size, entry.modified_ns)
        if part.status not in (200, 206):
            await _refuse(scope, line, part.status, entry)
            return
    if part is None or part.status == 200:
        reader = await agent.read_file(path, user=user)
        status, length = 200, reader.entry.size
    else:
        status, length = 206, part.length
        reader = await agent.read_file(path, user=user, offset=part.start, length=length)
    try:
        headers = _describe(reader.entry)
        if part is not None and status == 206:
            last = part.start + length - 1
            headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, last, entry.size)))
        if encoding == "identity" and 0 < length <= _AT_ONCE:
            content = await _gather(aiter(reader), length)
            await answer_bytes(scope, line.send, status, content, headers)
            return
        if encoding == "gzip":
            headers.append((b"content-encoding", b"gzip"))
        elif length:
            headers.append((b"content-length", b"%d" % length))
        await line.send({"type": "http.response.start", "status": status, "headers": headers})
        if encoding == "gzip":
            await _stream(deflate(aiter(reader)), receive, line)
        elif not length:
            # Perhaps a file of /proc, which says that it is empty and is not.
            await _stream(aiter(reader), receive, line)
        else:
            await _stream(_exactly(aiter(reader), length), receive, line)
    finally:
        await reader.close()


async def _stream(chunks: AsyncIterator[Piece], receive: Receive, line: Line) -> None:
    watch = asyncio.create_task(line.watch(receive))
    try:
        async for chunk in chunks:
            await line.send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        watch.cancel()
    await line.send({"type": "http.response.body", "body": b""})


async def _gather(chunks: AsyncIterator[Piece], limit: int) -> bytes:
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > limit:
            break
    return bytes(content[:limit])


async def _exactly(chunks: AsyncIterator[Piece], length: int) -> AsyncIterator[Piece]:
    """The `length` bytes that were announced, though the file may have changed meanwhile.

    Raises `AgentFailed` when they are not there any more.
    """
    async for chunk in chunks:
        # After the last byte comes, in most cases, the end; to see it frees the connection.
        if not length:
            return
        piece = chunk[:length]
        length -= len(piece)
        yield piece
    if length:
        raise AgentFailed("the file became shorter while it was read")


async def _refuse(scope: Scope, line: Line, status: int, entry: Entry) -> None:
    if status != 416:
        headers = [each for each in _describe(entry) if each[0] != b"content-type"]
        await answer_bytes(scope, line.send, status, b"", headers)
        return
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-range", b"bytes */%d" % entry.size),
    ]
    await answer_bytes(scope, line.send, status, b"invalid range\n", headers)


def _describe(entry: Entry) -> list[tuple[bytes, bytes]]:
    name = printable(entry.name)
    modified = last_modified(entry.modified_ns)
    return [
        *([(b"last-modified", modified)] if modified is not None else []),
        (b"content-type", _content_type(name)),
        (b"content-disposition", _disposition(name)),
        (b"accept-ranges", b"bytes"),
        (b"vary", b"Accept-Encoding"),
        # A signed URL may share its origin with the API: what the sandbox wrote must not run there.
        (b"content-security-policy", b"sandbox"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _content_type(name: str) -> bytes:
    # Of the suffix alone: the library takes a name like `data:text/html,` for a URL.
    suffix = PurePosixPath(name).suffix
    kind, encoding = _types.guess_type(f"name{suffix}", strict=False)
    return b"application/octet-stream" if kind is None or encoding else kind.encode()


def _disposition(name: str) -> bytes:
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    if plain == name:
        return f'inline; filename="{name}"'.encode()
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}".encode()
