"""A real gateway under a real uvicorn, with sandboxes whose agent is a process on this machine."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import httpx
import pytest
import uvicorn
import uvloop
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import atoll.agent
from atoll.agent.client import AgentClient
from atoll.certificates import LocalAuthority
from atoll.doors.gateway import build_gateway
from atoll.errors import PortClosed
from atoll.http import BoundedProtocol, BoundedWebSocket, HttpServer
from atoll.isolation.driver import Driver, Instance, Usage
from atoll.sandboxes.model import Sandbox, SandboxState, new_sandbox_id
from atoll.sandboxes.service import SandboxService
from atoll.tls import Certificate, NegotiatedProtocol
from tests.unit.conftest import make_template

Result = TypeVar("Result")
Wire = Literal["http/1.1", "tls http/1.1", "h2"]
"""What is spoken between client and gateway."""

_AGENT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from guest.main import main; main(sys.argv[2:])"
)


class LoopbackDriver:
    """What doors need of a driver, for a "sandbox" that is this machine."""

    async def dial(self, instance: Instance, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise PortClosed(port) from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def usage(self, instance: Instance) -> Usage:
        return Usage(time.process_time(), 50 << 20, 10 << 20, 1 << 30, 3, 5 << 20, 10 << 30)


@dataclass
class Doors:
    """The running gateway."""

    agent_name: str
    loop: asyncio.AbstractEventLoop = field(default_factory=uvloop.new_event_loop)
    live: dict[str, Sandbox] = field(default_factory=dict)
    port: int = 0
    tls_port: int = 0
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    """What clients of the TLS port trust."""

    def all_live(self) -> Iterable[Sandbox]:
        return self.live.values()

    def lookup(self, sandbox_id: str) -> Sandbox | None:
        return self.live.get(sandbox_id)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine where the server runs."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def add(self, **fields: Any) -> Sandbox:
        """Make a sandbox whose default user is root (whom every machine has)."""
        fields.setdefault("access_token", secrets.token_hex(16))
        template = replace(make_template(), user="root", workdir="/tmp")

        async def make() -> Sandbox:
            return Sandbox(
                sandbox_id=new_sandbox_id(),
                template=template,
                instance=cast(Instance, None),
                agent=AgentClient(self._dial_agent),
                driver=cast(Driver, LoopbackDriver()),
                created_at=time.time(),
                state=SandboxState.RUNNING,
                **fields,
            )

        sandbox = self.call(make())
        self.live[sandbox.sandbox_id] = sandbox
        return sandbox

    def end(self, sandbox: Sandbox) -> None:
        """End a sandbox as the service does it."""

        async def end() -> None:
            self.live.pop(sandbox.sandbox_id, None)
            sandbox.ended.set()
            await sandbox.agent.close()

        self.call(end())

    def headers(self, sandbox: Sandbox, port: int = 49983) -> dict[str, str]:
        """What the SDKs send with every request to a sandbox."""
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
        if sandbox.access_token is not None:
            headers["X-Access-Token"] = sandbox.access_token
        return headers

    def client(self, sandbox: Sandbox, port: int = 49983, wire: Wire = "http/1.1") -> httpx.Client:
        """A plain client that is routed to a port of the sandbox."""
        headers = self.headers(sandbox, port)
        if wire == "http/1.1":
            return httpx.Client(base_url=self.url, headers=headers, timeout=20)
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.tls_port}",
            headers=headers,
            timeout=20,
            verify=self.tls,
            http1=wire == "tls http/1.1",
            http2=wire == "h2",
        )

    async def _dial_agent(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(f"\0{self.agent_name}")
        return sock


async def _control(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/bug":
        raise RuntimeError("a bug")
    if scope["path"] == "/twice":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body"})
        return
    await JSONResponse({"control": scope["path"]})(scope, receive, send)


def _configure(app: ASGIApp, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws=BoundedWebSocket,
        ws_max_size=64 << 20,
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
        **options,
    )


@pytest.fixture(scope="session")
def agent_name() -> Iterator[str]:
    """The abstract socket of an agent that serves as this machine's root."""
    name = f"atoll-doors-{secrets.token_hex(8)}"
    home = str(Path(atoll.agent.__file__).parent)
    command = [sys.executable, "-c", _AGENT, home, "--name", name, "--any-peer"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(f"\0{name}") == 0:
                    break
            assert time.monotonic() < deadline, "the agent does not listen"
            time.sleep(0.01)
        yield name
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def doors(agent_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """The gateway, in a thread with an event loop of its own, without TLS and with it."""
    doors = Doors(agent_name)
    authority = LocalAuthority(tmp_path_factory.mktemp("certificates"))
    authority.issue("atoll.test")
    doors.tls.load_verify_locations(authority.cert)
    listener, tls_listener = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    doors.port, doors.tls_port = (each.getsockname()[1] for each in (listener, tls_listener))

    async def run() -> None:
        gateway = build_gateway(
            cast(SandboxService, doors), control=_control, domain=f"atoll.test:{doors.port}"
        )
        certificate = Certificate(authority.server_cert, authority.server_key)
        servers.append(HttpServer(_configure(gateway, http=BoundedProtocol)))
        servers.append(
            HttpServer(
                _configure(
                    gateway,
                    http=NegotiatedProtocol,
                    ssl_context_factory=lambda *_: certificate.context,
                )
            )
        )
        await asyncio.gather(
            servers[0].serve(sockets=[listener]), servers[1].serve(sockets=[tls_listener])
        )
        await gateway.close()
        for sandbox in doors.live.values():
            await sandbox.agent.close()

    servers: list[HttpServer] = []
    thread = threading.Thread(target=lambda: doors.loop.run_until_complete(run()))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not (len(servers) == 2 and all(each.started for each in servers)):
            assert time.monotonic() < deadline, "the gateway does not start"
            time.sleep(0.01)
        yield doors
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(20)
        doors.loop.close()


@pytest.fixture
def add_sandbox(doors: Doors) -> Iterator[Callable[..., Sandbox]]:
    """Make sandboxes that end with the test."""
    made: list[Sandbox] = []

    def add(**fields: Any) -> Sandbox:
        made.append(doors.add(**fields))
        return made[-1]

    yield add
    for sandbox in made:
        if sandbox.sandbox_id in doors.live:
            doors.end(sandbox)


@pytest.fixture
def sandbox(add_sandbox: Callable[..., Sandbox]) -> Sandbox:
    """A secured sandbox."""
    return add_sandbox(envs={"FROM_CREATE": "yes", "BOTH": "create"})
