"""`POST /files`: files into the sandbox, as a stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from starlette.types import Receive, Scope

from atoll.agent.model import Entry
from atoll.doors.answers import answer_json, header
from atoll.doors.e2b.encodings import inflate
from atoll.doors.e2b.entries import printable, summarize_entry
from atoll.doors.e2b.multipart import read_files
from atoll.doors.lines import Line
from atoll.errors import InvalidInput
from atoll.sandboxes.model import Sandbox

_IDLE_SECONDS = 300.0
"""How long an upload may stand still. The SDKs leave it to the server to end a stuck one."""

_METADATA_PREFIX = b"x-metadata-"
_NAMESPACE = len("user.e2b.")
_MAX_KEY = 246
_MAX_METADATA = 4096
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


async def take_files(
    sandbox: Sandbox, scope: Scope, receive: Receive, line: Line, query: Mapping[str, str]
) -> None:
    """Write the body's file or files and answer with what was written."""
    user = query.get("username") or sandbox.template.user
    path = query.get("path") or None
    metadata = _read_metadata(scope)
    body: AsyncIterator[bytes] = _read_body(receive, line)
    encoding = (header(scope, b"content-encoding") or b"identity").strip().lower()
    if encoding == b"gzip":
        body = inflate(body)
    elif encoding != b"identity":
        raise InvalidInput("the body's encoding is not supported, use one of: [identity, gzip]")
    agent = sandbox.agent
    kind = (header(scope, b"content-type") or b"").decode("latin-1")
    written: list[Entry] = []
    if kind.partition(";")[0].strip().lower() == "multipart/form-data":
        targets = set()
        async for file in read_files(body, kind):
            target = path or file.name
            if target in targets:
                raise InvalidInput(
                    f"the upload names {printable(target)!r} twice; only the first was written"
                )
            targets.add(target)
            _check_path(target)
            written.append(
                await agent.write_file(target, user=user, chunks=file.chunks, metadata=metadata)
            )
        if not written:
            raise InvalidInput('the form has no part named "file"')
    elif path is None:
        raise InvalidInput("a raw upload needs the query parameter path")
    else:
        _check_path(path)
        written.append(await agent.write_file(path, user=user, chunks=body, metadata=metadata))
    await answer_json(scope, line.send, 200, [summarize_entry(entry) for entry in written])


def _check_path(path: str) -> None:
    if not path or "\0" in path:
        raise InvalidInput("the file's path is empty or not a path")


async def _read_body(receive: Receive, line: Line) -> AsyncGenerator[bytes]:
    more = True
    while more:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                message = await receive()
        except TimeoutError:
            raise InvalidInput("the upload stood still for too long") from None
        if message["type"] == "http.disconnect":
            line.sever()
            raise InvalidInput("the client left in the middle of its upload")
        if chunk := message.get("body", b""):
            yield chunk
        more = message.get("more_body", False)


def _read_metadata(scope: Scope) -> dict[str, str]:
    """Collect the `X-Metadata-*` headers. Raises `InvalidInput` for what xattrs can't hold."""
    metadata: dict[str, str] = {}
    size = 0
    for name, value in scope["headers"]:
        if not name.startswith(_METADATA_PREFIX):
            continue
        key = name[len(_METADATA_PREFIX) :]
        if not key or not _PRINTABLE.fullmatch(key) or not _PRINTABLE.fullmatch(value):
            raise InvalidInput("metadata keys and values must be printable US-ASCII")
        if len(key) > _MAX_KEY:
            raise InvalidInput(f"a metadata key has at most {_MAX_KEY} bytes")
        if key.decode() in metadata:
            continue
        metadata[key.decode()] = value.decode()
        size += _NAMESPACE + len(key) + len(value)
    if size > _MAX_METADATA:
        raise InvalidInput(f"all metadata of a file has at most {_MAX_METADATA} bytes")
    return metadata
