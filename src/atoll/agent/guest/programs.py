"""Operations on processes: start, attach, list, input, signal, resize."""

from __future__ import annotations

import os

from . import wire
from .agent import Agent
from .paths import locate
from .process import Input, Process
from .refusal import Refusal
from .requests import mapping, number, system_text, text
from .spawn import Program

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .connection import Connection

_HIGHEST_PID = 2**22
_LONGEST_LIFETIME = 2**53


def greet(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`hello`: which protocol is spoken here."""
    connection.finish({"version": wire.PROTOCOL, "pid": os.getpid()})


def start(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`start`: run a program and stay attached to it."""
    user = agent.user(request)
    cmd = text(request, "cmd")
    args = request.get("args")
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise Refusal("invalid_argument", "args must be a list of text")
    for arg in args:
        system_text(arg, "args")
    envs = mapping(request, "envs")
    if any(not name or "=" in name for name in envs):
        raise Refusal("invalid_argument", "envs has a name that is empty or holds '='")
    cwd = text(request, "cwd") if request.get("cwd") is not None else None
    tag = text(request, "tag") if request.get("tag") is not None else None
    program = Program(
        cmd,
        args,
        envs,
        locate(cwd, user) if cwd else None,
        user,
        pty=_size(request) if request.get("pty") is not None else None,
        stdin=request.get("stdin") is True,
    )
    config: dict[str, object] = {"cmd": cmd, "args": args, "envs": envs, "cwd": cwd}
    lifetime = number(request, "lifetime", 0, _LONGEST_LIFETIME)
    Process(agent.processes, program, config, tag, lifetime).attach(connection)


def attach(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`attach`: receive the output of a process, and what it wrote since nobody did; or its end
    alone."""
    if request.get("output") is not False:
        _select(agent, request, ended=True).attach(connection)
        return
    pid = request.get("pid")
    end = agent.processes.find_end(pid) if isinstance(pid, int) else None
    if end is None:
        _select(agent, request, ended=True).watch(connection)
        return
    connection.send(wire.message({"start": {"pid": pid}}))
    connection.finish(end)


def list_processes(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`processes`: all that run, one message for each."""
    for process in agent.processes.running.values():
        connection.send(
            wire.message(
                {"process": {"pid": process.pid, "tag": process.tag, "config": process.config}}
            )
        )
    connection.finish()


def take_input(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`input`: what follows goes to the stdin or the terminal of a process."""
    process = _select(agent, request)
    process.require_input(pty=request.get("pty") is True)
    connection.take_body(Input(process, connection))


def close_stdin(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`close_stdin`: the process reads an end of file after what was sent."""
    _select(agent, request).close_stdin()
    connection.finish()


def send_signal(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`signal`: to the process and all of its group."""
    signum = number(request, "signal", 0, 64, -1)
    _select(agent, request).signal(signum)
    connection.finish()


def resize(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`resize`: the terminal of a process."""
    size = _size(request)
    _select(agent, request).resize(*size)
    connection.finish()


def _size(request: dict[str, object]) -> tuple[int, int]:
    size = request.get("pty")
    if not isinstance(size, dict):
        raise Refusal("invalid_argument", "pty must hold cols and rows")
    return number(size, "cols", 0, 65535), number(size, "rows", 0, 65535)


def _select(agent: Agent, request: dict[str, object], *, ended: bool = False) -> Process:
    if request.get("tag") is not None:
        return agent.processes.find(None, text(request, "tag"), ended=ended)
    pid = number(request, "pid", 1, _HIGHEST_PID, -1)
    return agent.processes.find(pid, None, ended=ended)
