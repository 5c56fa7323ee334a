"""A real gateway under a real uvicorn, with sandboxes whose agent is a process on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import pytest
import uvicorn
import uvloop
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

import atoll.agent
from atoll.agent.client import AgentClient
from atoll.doors.gateway import build_gateway
from atoll.errors import PortClosed
from atoll.isolation.driver import Driver, Instance, Usage
from atoll.sandboxes.model import Sandbox, SandboxState, new_sandbox_id
from atoll.sandboxes.service import SandboxService
from tests.unit.conftest import make_template

Result = TypeVar("Result")

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
        return sock

    async def usage(self, instance: Instance) -> Usage:
        return Usage(time.process_time(), 50 << 20, 10 << 20, 1 << 30, 3)


@dataclass
class Doors:
    """The running gateway."""

    agent_name: str
    loop: asyncio.AbstractEventLoop = field(default_factory=uvloop.new_event_loop)
    live: dict[str, Sandbox] = field(default_factory=dict)
    port: int = 0

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

    def client(self, sandbox: Sandbox, port: int = 49983) -> httpx.Client:
        """A plain client that is routed to a port of the sandbox."""
        return httpx.Client(base_url=self.url, headers=self.headers(sandbox, port), timeout=20)

    async def _dial_agent(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        sock.connect(f"\0{self.agent_name}")
        return sock


async def _control(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"control": scope["path"]})(scope, receive, send)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
def doors(agent_name: str) -> Iterator[Doors]:
    """The gateway, in a thread with an event loop of its own."""
    doors = Doors(agent_name)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    doors.port = listener.getsockname()[1]

    async def run() -> None:
        gateway = build_gateway(
            cast(SandboxService, doors), control=_control, domain=f"atoll.test:{doors.port}"
        )
        config = uvicorn.Config(
            gateway,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=64 << 20,
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = _Server(config)
        stopping.append(server)
        await server.serve(sockets=[listener])
        await gateway.close()
        for sandbox in doors.live.values():
            await sandbox.agent.close()

    stopping: list[uvicorn.Server] = []
    thread = threading.Thread(target=lambda: doors.loop.run_until_complete(run()))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not (stopping and stopping[0].started):
            assert time.monotonic() < deadline, "the gateway does not start"
            time.sleep(0.01)
        yield doors
    finally:
        stopping[0].should_exit = True
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
