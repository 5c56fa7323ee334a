"""Services "inside" a sandbox, good and bad, on a port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Service:
    """A running service and what it saw."""

    port: int = 0
    events: list[Any] = field(default_factory=list)

    def wait_for(self, event: Any, seconds: float = 3.0) -> None:
        """Wait until something was seen."""
        deadline = threading.Event()
        for _ in range(int(seconds * 100)):
            if event in self.events:
                return
            deadline.wait(0.01)
        raise AssertionError(f"{event!r} is not in {self.events!r}")


@contextmanager
def run_raw(talk: Raw) -> Iterator[Service]:
    """A service that speaks as `talk` does, one connection after the other or at once."""
    service = Service()

    async def main(listener: socket.socket, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(talk, sock=listener)
        await stop.wait()
        server.close()

    yield from _run(service, main)


@contextmanager
def run_app() -> Iterator[Service]:
    """A service with many routes, on a real HTTP server."""
    service = Service()

    async def main(listener: socket.socket, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=1 << 40)
        app.add_routes(_routes(service))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await stop.wait()
        await runner.cleanup()

    yield from _run(service, main)


def _run(
    service: Service, main: Callable[[socket.socket, asyncio.Event], Awaitable[None]]
) -> Iterator[Service]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    service.port = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    listener.listen()

    def run() -> None:
        loop.run_until_complete(main(listener, stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def _routes(service: Service) -> list[web.RouteDef]:
    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [[name, value] for name, value in request.headers.items()],
                "body": body.decode("latin-1"),
            },
            headers={"X-Twice": "a", "Set-Cookie": "session=1"},
        )

    async def count(request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response({"size": size, "length": request.headers.get("Content-Length")})

    async def pour(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        sent = 0
        try:
            for _ in range(int(request.query["mb"])):
                await response.write(bytes(1 << 20))
                sent += 1
        finally:
            service.events.append(("poured", sent))
        return response

    async def ticks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(1000):
                await response.write(f"data: {number}\n\n".encode())
                await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            service.events.append("ticks cancelled")
            raise
        return response

    async def hang(request: web.Request) -> web.Response:
        service.events.append("hanging")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            service.events.append("hang cancelled")
            raise
        return web.Response()

    async def early(request: web.Request) -> web.Response:
        return web.Response(status=413, text="too much")

    async def status(request: web.Request) -> web.Response:
        code = int(request.match_info["code"])
        headers = {"Location": "http://127.0.0.1:1/elsewhere"} if 300 <= code < 400 else {}
        return web.Response(status=code, headers=headers)

    async def talk(request: web.Request) -> web.StreamResponse:
        if "refuse" in request.query:
            return web.Response(status=403, text="not you", headers={"X-Why": "because"})
        ws = web.WebSocketResponse(protocols=("second",), max_msg_size=0)
        await ws.prepare(request)
        service.events.append(("open", request.raw_path, ws.ws_protocol))
        try:
            async for message in ws:
                if message.data == "close me":
                    await ws.close(code=4123, message=b"as you wish")
                elif message.data == "vanish":
                    assert request.transport is not None
                    request.transport.abort()
                elif message.data == "flood":
                    for _ in range(400):
                        await ws.send_bytes(bytes(1 << 20))
                        service.events.append("flooded")
                elif message.type is WSMsgType.TEXT:
                    await ws.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await ws.send_bytes(message.data)
            service.events.append(("closed", ws.close_code))
        finally:
            service.events.append("talk over")
        return ws

    return [
        web.route("*", "/count", count),
        web.get("/pour", pour),
        web.get("/ticks", ticks),
        web.route("*", "/hang", hang),
        web.post("/early", early),
        web.route("*", "/status/{code}", status),
        web.get("/talk", talk),
        web.route("*", "/{any:.*}", echo),
    ]


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    """A body that is made while it is sent."""
    for _ in range(count):
        yield bytes(size)
