"""A sandbox under test: an instance with its driver and its agent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import textwrap
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.isolation.driver import Driver, Instance

_numbers = itertools.count(1)


def new_id() -> str:
    """An id that no other sandbox of this run has."""
    return f"t{next(_numbers):07d}"


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed on both streams."""

    exit_code: int
    output: str

    def __str__(self) -> str:
        return self.output.strip()


class Box:
    """What tests do with one sandbox."""

    def __init__(
        self, driver: Driver, instance: Instance, envs: Mapping[str, str] | None = None
    ) -> None:
        self.envs = envs or {}
        self.driver = driver
        self.instance = instance
        self.agent = AgentClient(functools.partial(driver.dial_agent, instance))

    async def run(self, command: str, *, user: str = "user", timeout: float = 60) -> Outcome:
        """Run a command of the shell to its end."""
        config = ProcessConfig("/bin/bash", ("-c", textwrap.dedent(command)), self.envs, None)
        async with asyncio.timeout(timeout):
            return await self._collect(config, user)

    async def check(self, command: str, **options: Any) -> str:
        """Run a command that has to succeed; what it printed."""
        outcome = await self.run(command, **options)
        assert outcome.exit_code == 0, outcome
        return str(outcome)

    async def python(self, program: str, **options: Any) -> str:
        """Run a Python program that has to succeed; what it printed."""
        quoted = textwrap.dedent(program).replace("'", "'\"'\"'")
        return await self.check(f"python3 -c '{quoted}'", **options)

    async def write(self, files: Mapping[str, str]) -> None:
        """Write small files as root."""
        await self.agent.configure(files)

    @contextlib.asynccontextmanager
    async def background(self, command: str, *, user: str = "user") -> AsyncIterator[None]:
        """Keep a command running meanwhile."""
        config = ProcessConfig("/bin/bash", ("-c", f"exec {command}"), {}, None)
        stream = await self.agent.start_process(config, user=user)
        try:
            yield
        finally:
            await self.agent.signal(stream.pid, 9)
            async for _ in stream:
                pass

    async def connect(self, host: str, port: int, *, timeout: float = 3) -> str:
        """Try a TCP connection out of the sandbox: `open`, or the name of what came instead."""
        return await self.python(
            f"""
            import errno, socket
            try:
                socket.create_connection(("{host}", {port}), timeout={timeout}).close()
                print("open")
            except OSError as error:
                print(errno.errorcode.get(error.errno, "timeout"))
            """
        )

    async def ping(self, host: str) -> bool:
        """Whether a host answers an echo request."""
        answer = await self.python(
            f"""
            import socket, struct
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
            sock.settimeout(1)
            try:
                sock.sendto(struct.pack(">BBHHH", 8, 0, 0xF7FE, 0, 1), ("{host}", 0))
                print(sock.recv(100)[0])
            except OSError:
                print("nothing")
            """
        )
        return answer == "0"

    async def _collect(self, config: ProcessConfig, user: str) -> Outcome:
        stream = await self.agent.start_process(config, user=user)
        output = b""
        async for event in stream:
            if isinstance(event, ProcessEnd):
                return Outcome(event.exit_code, output.decode(errors="replace"))
            output += event.data
        raise AssertionError("the stream ended without an end of the process")
