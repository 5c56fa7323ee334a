"""Start of the agent: become a good first process, listen, serve."""

from __future__ import annotations

import _socket
import gc
import os
import sys

from . import composing, files, programs, transfers, watches
from .agent import Agent
from .connection import Connection
from .loop import READ, Loop
from .signals import (
    SIG_DFL,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    set_wakeup_fd,
    signal,
)
from .worker import killed_first

DEFAULT_NAME = "atoll-agent"

_BACKLOG = 512
_BUFFER = 1024 * 1024
"""Wish for the socket's buffer; the kernel cuts it to its own limit."""
_ACCEPT_PAUSE = 0.05


def main(arguments: list[str]) -> None:
    """Run the agent. Arguments: `--name NAME` of the abstract socket, `--any-peer` to serve
    processes of its own pid namespace too (for tests)."""
    name, any_peer = DEFAULT_NAME, False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--name":
            name = next(rest, "")
        elif argument == "--any-peer":
            any_peer = True
        else:
            sys.exit(f"unknown argument {argument!r}")
    _have_standard_descriptors()
    os.chdir("/")
    os.umask(0)
    loop = Loop()
    agent = Agent(loop)
    agent.operations.update(
        {
            "hello": programs.greet,
            "configure": files.configure,
            "start": programs.start,
            "attach": programs.attach,
            "processes": programs.list_processes,
            "input": programs.take_input,
            "close_stdin": programs.close_stdin,
            "signal": programs.send_signal,
            "resize": programs.resize,
            "stat": files.stat_path,
            "list": files.list_directory,
            "mkdir": files.make_directory,
            "move": files.move,
            "remove": files.remove,
            "read": transfers.read_file,
            "write": transfers.write_file,
            "compose": composing.compose,
            "watch": watches.watch_directory,
        }
    )
    _handle_signals(agent)
    killed_first.prepare()
    Listener(agent, name, any_peer=any_peer)
    gc.collect()
    gc.freeze()
    loop.run(_report)


def _have_standard_descriptors() -> None:
    """Make sure that 0, 1 and 2 are open, so that no pipe ever gets one of these numbers."""
    for _ in range(3):
        try:
            fd = os.open("/dev/null", os.O_RDWR)
        except OSError:
            fd = os.open("/", os.O_RDONLY)
        if fd > 2:
            os.close(fd)
            return


def _handle_signals(agent: Agent) -> None:
    # The first process of a pid namespace does not get signals that it has no handler for, so the
    # interpreter's handler for this one has to go. What is ignored here is ignored by every program
    # started: a server run by nohup hands down SIGHUP, one in a script's background SIGINT.
    for number in (SIGHUP, SIGINT, SIGQUIT, SIGTERM):
        signal(number, SIG_DFL)
    bell, ring = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(ring, False)
    signal(SIGCHLD, lambda *_: None)
    set_wakeup_fd(ring, warn_on_full_buffer=False)

    def on_bell(_: int) -> None:
        try:
            os.read(bell, 512)
        except BlockingIOError:
            return
        agent.reap()

    agent.loop.watch(bell, READ, on_bell)


def _report(error: Exception) -> None:
    try:
        sys.stderr.write(f"atoll agent: {error!r}\n")
    except OSError:
        return


class Listener:
    """Accepts the host's connections on an abstract socket of the sandbox's network namespace."""

    def __init__(self, agent: Agent, name: str, *, any_peer: bool) -> None:
        self._agent = agent
        self._any_peer = any_peer
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        self._socket.bind(f"\0{name}")
        self._socket.listen(_BACKLOG)
        self._listen()

    def _listen(self) -> None:
        self._agent.loop.watch(self._socket.fileno(), READ, self._on_connection)

    def _on_connection(self, events: int) -> None:
        for _ in range(16):
            try:
                fd, _address = self._socket._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError:
                # Out of descriptors or memory: the connection stays in the queue, and asking
                # again at once would only spin.
                self._agent.loop.forget(self._socket.fileno())
                self._agent.loop.call_later(_ACCEPT_PAUSE, self._listen)
                return
            peer = _socket.socket(fileno=fd)
            credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
            pid = int.from_bytes(credentials[:4], sys.byteorder)
            # A process outside this pid namespace has no number here; one inside has.
            if pid and not self._any_peer:
                peer.close()
                continue
            peer.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _BUFFER)
            os.set_blocking(fd, False)
            Connection(peer.detach(), self._agent.loop, self._agent.dispatch)
