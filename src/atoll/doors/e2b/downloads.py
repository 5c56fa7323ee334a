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
from atoll.agent.streams import FileReader
from atoll.doors.answers import answer_bytes, header
from atoll.doors.e2b.encodings import choose_encoding, deflate
from atoll.doors.e2b.filesystem import printable
from atoll.doors.lines import Line
from atoll.errors import AgentFailed
from atoll.sandboxes.model import Sandbox

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})")
_AT_ONCE = 64 * 1024
"""Bytes up to which a file is read whole before it is sent. It then has the length that was read:
files of /sys announce more than they hold."""

# The interpreter's own table, so that the answer does not depend on files of the host.
_types = mimetypes.MimeTypes(filenames=())


class _BadRange(Exception):
    pass


async def send_file(
    sandbox: Sandbox, scope: Scope, receive: Receive, line: Line, query: Mapping[str, str]
) -> None:
    """Answer with the content of the file that the query names, or a range of it."""
    accept = header(scope, b"accept-encoding")
    encoding = choose_encoding(accept.decode("latin-1") if accept is not None else None)
    agent = sandbox.agent
    path = query.get("path", "")
    user = query.get("username") or sandbox.template.user
    wanted = _read_range(scope)
    if wanted is None:
        reader = await agent.read_file(path, user=user)
        start, length = 0, reader.entry.size
    else:
        async with await agent.read_file(path, user=user, length=0) as probe:
            size = probe.entry.size
        try:
            start, length = _resolve_range(wanted, size)
        except _BadRange:
            headers = [(b"content-range", b"bytes */%d" % size)]
            await answer_bytes(scope, line.send, 416, b"", headers)
            return
        encoding = "identity"
        reader = await agent.read_file(path, user=user, offset=start, length=length)
    try:
        headers = _describe(reader)
        status = 200
        if wanted is not None:
            status = 206
            last = start + length - 1
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, last, size)))
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


def _describe(reader: FileReader) -> list[tuple[bytes, bytes]]:
    name = printable(reader.entry.name)
    return [
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


def _read_range(scope: Scope) -> tuple[int | None, int | None] | None:
    """The one range that the client asks for. Several are answered with the whole, as HTTP allows;
    so is one on condition of a validator, as there are none here."""
    raw = header(scope, b"range")
    if raw is None or header(scope, b"if-range") is not None:
        return None
    match = _RANGE.fullmatch(raw.decode("latin-1").strip())
    if match is None or not (match[1] or match[2]):
        return None
    return (int(match[1]) if match[1] else None, int(match[2]) if match[2] else None)


def _resolve_range(wanted: tuple[int | None, int | None], size: int) -> tuple[int, int]:
    first, last = wanted
    if first is None:
        length = min(last or 0, size)
        first, last = size - length, size - 1
    else:
        last = size - 1 if last is None else min(last, size - 1)
    if first >= size or last < first:
        raise _BadRange
    return first, last - first + 1
