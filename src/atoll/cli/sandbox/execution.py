"""`atoll sandbox exec`: a command in a sandbox, with this terminal's or pipe's input and output."""

from __future__ import annotations

import asyncio
import os
import select
import shlex
import signal
import stat
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.pairs import Envs, parse_pairs
from atoll.cli.printing import print_json
from atoll.cli.sandbox.completion import SandboxId
from atoll.cli.target import ApiKey, ApiUrl, locate_target

if TYPE_CHECKING:
    from atoll.cli.sandbox.programs import Program, Sandbox

_CHUNK = 64 * 1024
_INTERRUPTED = 130
_CLOSED_PIPE = 141


def execute(
    sandbox_id: SandboxId,
    command: Annotated[
        list[str], typer.Argument(help="One argument is a shell command; several are a program.")
    ],
    background: Annotated[
        bool, typer.Option("--background", "-b", help="Print the process's number, and leave it.")
    ] = False,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Run it in a terminal, for what is interactive.")
    ] = False,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The user to run it.")] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-c", help="Working directory.")] = None,
    env: Envs = None,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Run a command and end with its status. Options come before the sandbox's id."""
    from atoll.cli.sandbox.programs import Program, Sandbox
    from atoll.cli.sandbox.terminal import open_terminal

    if tty and (background or as_json):
        raise typer.BadParameter("--tty goes with neither --background nor --json")
    target = locate_target(data_dir, api_url, api_key)
    api = ControlPlane(target)
    if command[0] == "--":
        del command[0]
    if not command:
        raise typer.BadParameter("there is no command to run")
    text = command[0] if len(command) == 1 else shlex.join(command)
    piped = _is_piped(sys.stdin.fileno()) and not tty
    program = Program(("-l", "-c", text), user, cwd, parse_pairs(env), stdin=piped)
    made = api.connect(sandbox_id)
    if tty:
        raise typer.Exit(open_terminal(api, target, made, program))

    async def work() -> int:
        async with Sandbox(api, target, made) as sandbox:
            return await _Execution(sandbox, as_json, background).run(program)

    raise typer.Exit(asyncio.run(work()))


class _Execution:
    def __init__(self, sandbox: Sandbox, as_json: bool, background: bool) -> None:
        self._sandbox = sandbox
        self._as_json = as_json
        self._background = background
        self._collected = {"stdout": bytearray(), "stderr": bytearray()}
        self._pid = 0
        self._stdin = False
        self._feeding: asyncio.Task[None] | None = None
        self._cut: int | None = None
        """The status to end with, once we have ended the program ourselves."""
        self._killing: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    async def run(self, program: Program) -> int:
        self._stdin = program.stdin
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._cut_off, 128 + number)
        running = asyncio.create_task(
            self._sandbox.run(program, on_start=self._on_start, on_output=self._on_output)
        )
        try:
            if self._background and await self._leave(running):
                return 0
            status = await running
        finally:
            tasks = [task for task in (running, self._feeding, self._killing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._as_json:
            texts = {kind: data.decode(errors="replace") for kind, data in self._collected.items()}
            print_json({"exitCode": status, **texts})
        return status if self._cut is None else self._cut

    async def _leave(self, running: asyncio.Task[int]) -> bool:
        """Wait until the program has started and has all of its input; then it is on its own."""
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait({running, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if not self._started.is_set():
            return False  # it failed to start: `running` says why
        if self._feeding is not None:
            await self._feeding
        if self._as_json:
            print_json({"pid": self._pid})
        else:
            typer.echo(self._pid)
        return True

    async def _on_start(self, pid: int) -> None:
        self._pid = pid
        if self._stdin:
            self._feeding = asyncio.create_task(
                self._sandbox.feed(pid, read_input(sys.stdin.fileno()), pty=False)
            )
        self._started.set()

    async def _on_output(self, kind: str, data: bytes) -> None:
        if self._background:
            return
        if self._as_json:
            self._collected[kind] += data
            return
        try:
            write_all(sys.stderr.fileno() if kind == "stderr" else sys.stdout.fileno(), data)
        except BrokenPipeError:
            self._cut_off(_CLOSED_PIPE)

    def _cut_off(self, status: int) -> None:
        if self._cut is None and self._pid:
            self._cut = status
            self._killing = asyncio.create_task(self._sandbox.kill(self._pid))
        elif not self._pid:
            raise SystemExit(status)


def _is_piped(fd: int) -> bool:
    # A terminal's input stays with the shell that called us, as it does with the official CLI.
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


async def read_input(fd: int) -> AsyncIterator[bytes]:
    """What comes in at a descriptor, until its end."""
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    if not regular:
        loop.add_reader(fd, ready.set)
    try:
        while True:
            if not regular:
                await ready.wait()
                ready.clear()
            data = os.read(fd, _CHUNK)
            if not data:
                return
            yield data
    finally:
        if not regular:
            loop.remove_reader(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it. Raises `BrokenPipeError`."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # Whoever shares it has made it so.
            select.select([], [fd], [])
