"""The HTTP side: routes, bodies, streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from . import output
from .contexts import Context, Contexts, UnknownContext
from .kernel import KernelUnavailable
from .languages import LANGUAGES, PYTHON, Language, find_language

_MAX_BODY = 64 << 20
_KEEPALIVE_SECONDS = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BadRequest(Exception):
    """The request is not what the route takes; the message says why."""


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadRequest as error:
        return web.Response(status=400, text=str(error))
    except UnknownContext as error:
        return web.Response(status=404, text=f"Context {error} not found")
    except KernelUnavailable as error:
        return web.Response(status=500, text=str(error))


async def _allow_every_origin(request: web.Request, response: web.StreamResponse) -> None:
    # As on E2B: pages of whatever origin may run code, if they know the sandbox.
    response.headers["Access-Control-Allow-Origin"] = "*"


async def _read_object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    return body


def _take_text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name} is not a string")
    return value or None


def _take_variables(body: dict[str, Any]) -> dict[str, str]:
    value = body.get("env_vars") or {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise BadRequest("env_vars is not an object of strings")
    for name, each in value.items():
        if not name or "=" in name or "\0" in name + each:
            raise BadRequest(f"env_vars: {name!r} can't be an environment variable")
    return value


def _find_directory(path: str) -> str:
    directory = Path.home() / Path(path).expanduser()
    if not directory.is_dir():
        raise BadRequest(f"cwd: {directory} is not a directory of this sandbox")
    return str(directory)


def _take_language(body: dict[str, Any]) -> Language | None:
    name = _take_text(body, "language")
    if name is None:
        return None
    language = find_language(name)
    if language is None:
        known = ", ".join(each.name for each in LANGUAGES)
        raise KernelUnavailable(f"there is no kernel for {name!r}; there are {known}")
    return language


class Interpreter:
    """The application's routes over the contexts."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    def build_app(self) -> web.Application:
        """Build the application."""
        app = web.Application(middlewares=[_answer_errors], client_max_size=_MAX_BODY)
        app.on_response_prepare.append(_allow_every_origin)
        app.router.add_options("/{path:.*}", self._answer_preflight)
        app.router.add_get("/health", self._health)
        app.router.add_post("/execute", self._execute)
        app.router.add_post("/contexts", self._create)
        app.router.add_get("/contexts", self._list)
        app.router.add_post("/contexts/{context_id}/restart", self._restart)
        app.router.add_delete("/contexts/{context_id}", self._remove)
        return app

    async def _answer_preflight(self, request: web.Request) -> web.Response:
        headers = {
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": request.headers.get(
                "Access-Control-Request-Headers", "*"
            ),
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=204, headers=headers)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response("OK")

    async def _create(self, request: web.Request) -> web.Response:
        body = await _read_object(request)
        cwd = _take_text(body, "cwd")
        cwd = cwd and _find_directory(cwd)
        context = await self._contexts.create(_take_language(body) or PYTHON, cwd)
        return web.json_response(context.describe())

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([context.describe() for context in self._contexts.list()])

    async def _restart(self, request: web.Request) -> web.Response:
        await self._contexts.get(request.match_info["context_id"]).restart()
        return web.json_response(None)

    async def _remove(self, request: web.Request) -> web.Response:
        await self._contexts.remove(request.match_info["context_id"])
        return web.json_response(None)

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        body = await _read_object(request)
        code = body.get("code")
        if not isinstance(code, str):
            raise BadRequest("code is missing, or not a string")
        context = self._choose(body)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        async with _Execution(context.execute(code, _take_variables(body))) as execution:
            # The answer begins when the first event is there: a kernel that can't be started is
            # an error, not a stream.
            batch = await execution.take()
            await response.prepare(request)
            try:
                while batch:
                    await response.write(b"".join(map(_encode, batch)))
                    batch = await execution.take()
            except (KernelUnavailable, UnknownContext) as failure:  # after signs of life
                event = output.error(type(failure).__name__, str(failure))
                await response.write(_encode(event))
        await response.write_eof(_encode(output.END))
        return response

    def _choose(self, body: dict[str, Any]) -> Context:
        context_id, language = _take_text(body, "context_id"), _take_language(body)
        if context_id is not None and language is not None:
            raise BadRequest("Only one of context_id or language can be provided")
        if context_id is not None:
            return self._contexts.get(context_id)
        return self._contexts.get_default(language or PYTHON)


class _Execution:
    """The events of an execution as they come; when it is left early the execution is stopped."""

    def __init__(self, events: AsyncGenerator[output.Event]) -> None:
        self._events = events
        self._queue: asyncio.Queue[output.Event] = asyncio.Queue()
        self._pump = asyncio.create_task(self._run())

    async def __aenter__(self) -> _Execution:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        async with contextlib.aclosing(self._events) as events:
            async for event in events:
                self._queue.put_nowait(event)

    async def take(self) -> list[output.Event]:
        """All events that have come, one at least; a sign of life after a while without any; none
        when the execution is over. Raises what the execution raised."""
        if self._queue.empty():
            coming = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait(
                    {coming, self._pump},
                    timeout=_KEEPALIVE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                batch = [coming.result()] if coming.done() else []
            finally:
                coming.cancel()
        else:
            batch = []
        while not self._queue.empty():
            batch.append(self._queue.get_nowait())
        if not batch:
            if not self._pump.done():
                return [output.KEEPALIVE]
            self._pump.result()
        return batch


def _encode(event: output.Event) -> bytes:
    return json.dumps(event, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
