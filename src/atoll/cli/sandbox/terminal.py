"""This terminal, lent to a program in a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from typing import Any

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.sandbox.escape import Escape
from atoll.cli.sandbox.execution import write_all
from atoll.cli.sandbox.programs import Program, Sandbox
from atoll.cli.target import Target
from atoll.errors import AtollError, HostError

SHELL = ("-i", "-l")
_CHUNK = 64 * 1024
_KEPT_SECONDS = 60
_KEEPING_SECONDS = 20
_DEFAULT_TERM = "xterm-256color"
_KNOWN_TERMS = frozenset(
    ("linux", "screen", "screen-256color", "tmux", "tmux-256color", "vt100", "vt220", "xterm")
)
"""Kinds of terminal besides the default that every Debian system can describe."""
_RESET = b"\x1b[?1049l\x1b[?25h\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[0m"
"""Undoes what a full-screen program may have left: the other screen, a hidden cursor, bracketed
paste, reports of the mouse, colours."""


def require_terminal() -> None:
    """Raises `HostError` unless a person sits there."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise HostError(
            "input and output are no terminal",
            remedy="use `atoll sandbox exec` for a command, `atoll sandbox create --detach` for a "
            "sandbox alone",
        )


def open_terminal(api: ControlPlane, target: Target, made: dict[str, Any], program: Program) -> int:
    """Run a program in this terminal. Returns its status, 0 when the user has left it running.

    The sandbox is kept alive meanwhile. The terminal is put back on every way out.
    """
    require_terminal()
    term = os.environ.get("TERM", "")
    program = dataclasses.replace(
        program,
        envs={
            "TERM": term if term in _KNOWN_TERMS else _DEFAULT_TERM,
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            **program.envs,
        },
        size=_read_size(),
    )
    terminal = _Terminal(api, target, made)
    with _raw_mode() as way_out:
        status = asyncio.run(terminal.run(program))
        if terminal.left is None:
            way_out.clean = True
    if terminal.left is not None:
        typer.echo(terminal.left, err=True)
    return status


class _WayOut:
    clean = False
    """Whether the program has ended by itself and so left the screen as it should be."""


@contextlib.contextmanager
def _raw_mode() -> Iterator[_WayOut]:
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    way_out = _WayOut()
    try:
        tty.setraw(fd)
        yield way_out
    finally:
        if not way_out.clean:
            with contextlib.suppress(OSError):
                write_all(sys.stdout.fileno(), _RESET + b"\r\n")
        with contextlib.suppress(termios.error):  # The terminal has been closed.
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _read_size() -> tuple[int, int]:
    size = os.get_terminal_size(sys.stdin.fileno())
    return (size.columns or 80, size.lines or 24)


class _Terminal:
    def __init__(self, api: ControlPlane, target: Target, made: dict[str, Any]) -> None:
        self.left: str | None = None
        """Why the terminal was left while its program ran on."""
        self._api = api
        self._target = target
        self._made = made
        self._escape = Escape()
        self._more = asyncio.Event()
        self._resized = asyncio.Event()
        self._leaving: asyncio.Future[int] | None = None

    async def run(self, program: Program) -> int:
        loop = asyncio.get_running_loop()
        leaving = self._leaving = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, f"left on signal {number}", 128 + number)
        loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
        async with Sandbox(self._api, self._target, self._made) as sandbox:
            helpers = [asyncio.create_task(self._keep_alive())]

            async def on_start(pid: int) -> None:
                helpers.append(asyncio.create_task(sandbox.feed(pid, self._read(), pty=True)))
                helpers.append(asyncio.create_task(self._follow_size(sandbox, pid)))

            async def on_output(_: str, data: bytes) -> None:
                try:
                    write_all(sys.stdout.fileno(), data)
                except OSError:
                    self._leave("the terminal is gone", 129)

            running = asyncio.create_task(
                sandbox.run(program, on_start=on_start, on_output=on_output)
            )
            try:
                await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
                return await running if running.done() else leaving.result()
            finally:
                loop.remove_reader(sys.stdin.fileno())
                for task in (running, *helpers):
                    task.cancel()
                await asyncio.gather(running, *helpers, return_exceptions=True)

    def _leave(self, why: str, status: int) -> None:
        if self._leaving is not None and not self._leaving.done():
            self.left = why
            self._leaving.set_result(status)

    async def _read(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        fd = sys.stdin.fileno()
        while True:
            # Read again only when the last has gone out: what is typed ahead waits in the kernel.
            loop.add_reader(fd, self._more.set)
            await self._more.wait()
            self._more.clear()
            loop.remove_reader(fd)
            try:
                typed = os.read(fd, _CHUNK)
            except OSError:
                typed = b""
            if not typed:
                self._leave("the terminal is gone", 129)
                return
            passed, leave = self._escape.filter(typed)
            if passed:
                yield passed
            if leave:
                self._leave("left; the program goes on in the sandbox", 0)
                return

    async def _follow_size(self, sandbox: Sandbox, pid: int) -> None:
        while True:
            await self._resized.wait()
            self._resized.clear()
            with contextlib.suppress(OSError):
                await sandbox.resize(pid, _read_size())

    async def _keep_alive(self) -> None:
        sandbox_id = self._made["sandboxID"]
        while True:
            await asyncio.sleep(_KEEPING_SECONDS)
            with contextlib.suppress(AtollError):  # The stream says so when the sandbox has ended.
                await asyncio.to_thread(self._api.connect, sandbox_id, timeout=_KEPT_SECONDS)
