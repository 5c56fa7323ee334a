"""`/volumecontent/{id}/…`: what is in a volume, for whoever has its token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.doors.e2b.bodies import parse_body
from atoll.doors.e2b.entries import printable
from atoll.doors.e2b.models import format_moment
from atoll.doors.limits import Limits
from atoll.errors import InvalidInput, Unauthenticated
from atoll.volumes.model import Attributes, Entry
from atoll.volumes.service import VolumeService

_IDLE_SECONDS = 300.0
"""How long an upload may stand still."""
_PIECE = 256 * 1024
_HIGHEST_MODE = 0o777

_SAFE_HEADERS = {
    # It shares its origin with the API: what is in a volume must not run there.
    "content-security-policy": "sandbox",
    "x-content-type-options": "nosniff",
}

Number = Annotated[int, Field(ge=0)]


class AttributesBody(BaseModel):
    """`PATCH …/path`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    uid: Number | None = None
    gid: Number | None = None
    mode: Number | None = None


class VolumeContentRoutes:
    """The routes of volumes' content. A token stands in for the API key."""

    def __init__(self, volumes: VolumeService, limits: Limits) -> None:
        self._volumes = volumes
        self._limits = limits

    def routes(self) -> list[Route]:
        """The routes, for the control plane."""
        one = "/volumecontent/{volume_id}"
        return [
            Route(f"{one}/path", self._describe, methods=["GET"]),
            Route(f"{one}/path", self._change, methods=["PATCH"]),
            Route(f"{one}/path", self._remove, methods=["DELETE"]),
            Route(f"{one}/dir", self._list, methods=["GET"]),
            Route(f"{one}/dir", self._make_directory, methods=["POST"]),
            Route(f"{one}/file", self._download, methods=["GET"]),
            Route(f"{one}/file", self._upload, methods=["PUT"]),
        ]

    async def _open(self, request: Request) -> tuple[str, str]:
        """The volume and the path that a request may use."""
        volume_id: str = request.path_params["volume_id"]
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(
                "the volume's token is missing", remedy="send it as `Authorization: Bearer …`"
            )
        await self._volumes.authorize(volume_id, token.strip())
        self._limits.requests.take(token.strip())
        return volume_id, request.query_params.get("path", "")

    async def _describe(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        return JSONResponse(describe_entry(await self._volumes.describe(volume_id, path)))

    async def _change(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        body = await parse_body(request, AttributesBody)
        wanted = Attributes(body.uid, body.gid, _check_mode(body.mode))
        return JSONResponse(describe_entry(await self._volumes.change(volume_id, path, wanted)))

    async def _remove(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        await self._volumes.remove_path(volume_id, path)
        return Response(status_code=204)

    async def _list(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        depth = _read_number(request, "depth")
        entries = await self._volumes.list_directory(volume_id, path, depth or 1)
        # A long list takes a while to write, which others should not wait for.
        return await asyncio.to_thread(
            lambda: JSONResponse([describe_entry(each) for each in entries])
        )

    async def _make_directory(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        entry = await self._volumes.make_directory(
            volume_id, path, _read_attributes(request), parents=bool(_read_force(request))
        )
        return JSONResponse(describe_entry(entry), status_code=201)

    async def _download(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        stack = contextlib.AsyncExitStack()
        size, pieces = await stack.enter_async_context(self._volumes.read_file(volume_id, path))
        download = _Download(stack, size, pieces)
        if request.method == "GET":
            return download
        # Of what is asked for its headers alone, nothing is read: a sparse file may seem endless.
        await stack.aclose()
        return Response(headers=download.headers)

    async def _upload(self, request: Request) -> Response:
        volume_id, path = await self._open(request)
        force = _read_force(request)
        entry = await self._volumes.write_file(
            volume_id,
            path,
            _read_body(request),
            _read_attributes(request),
            # The SDK says that an existing file is overwritten, and has an option for it: to say no
            # is the only way to want something else.
            overwrite=force is not False,
            parents=bool(force),
        )
        return JSONResponse(describe_entry(entry), status_code=201)


class _Download(StreamingResponse):
    """A file as a stream, which is let go of however the stream ends."""

    def __init__(
        self, stack: contextlib.AsyncExitStack, size: int, pieces: AsyncIterator[bytes]
    ) -> None:
        headers = {"content-length": str(size), **_SAFE_HEADERS}
        super().__init__(pieces, headers=headers, media_type="application/octet-stream")
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


def describe_entry(entry: Entry) -> dict[str, Any]:
    """An entry as E2B describes it."""
    described: dict[str, Any] = {
        "name": printable(entry.name),
        "type": entry.kind.value,
        "path": printable(entry.path),
        "size": entry.size,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "atime": _format_time(entry.accessed),
        "mtime": _format_time(entry.modified),
        "ctime": _format_time(entry.changed),
    }
    if entry.target is not None:
        described["target"] = printable(entry.target)
    return described


def _format_time(seconds: float) -> str:
    # A sandbox may set a time that no calendar has.
    try:
        return format_moment(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return format_moment(datetime.fromtimestamp(0, UTC))


async def _read_body(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces of some size, however small those are in which it comes."""
    waiting = bytearray()
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                waiting += await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise InvalidInput("the upload stood still for too long") from None
        if len(waiting) >= _PIECE:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _read_attributes(request: Request) -> Attributes:
    uid, gid = _read_number(request, "uid"), _read_number(request, "gid")
    return Attributes(uid, gid, _check_mode(_read_number(request, "mode")))


def _read_number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 11):
        raise InvalidInput(f"{name} is not a number: {text[:100]!r}")
    return int(text)


def _check_mode(mode: int | None) -> int | None:
    if mode is not None and mode > _HIGHEST_MODE:
        raise InvalidInput(f"the mode {mode} is more than the nine permission bits")
    return mode


def _read_force(request: Request) -> bool | None:
    text = request.query_params.get("force")
    if text is None:
        return None
    if text.lower() not in ("true", "false"):
        raise InvalidInput(f"force is neither true nor false: {text[:100]!r}")
    return text.lower() == "true"
