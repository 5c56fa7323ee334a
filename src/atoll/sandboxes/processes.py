"""Programs in a sandbox, written down from start to end, whoever listens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from atoll.agent.model import Output, ProcessConfig, ProcessEnd, PtySize
from atoll.agent.streams import ProcessStream
from atoll.errors import AtollError, ProcessNotFound
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.startup import TAG, resume_start_output

_MOST_FOLLOWED = 256
"""Processes without a listener whose ends are waited for, per sandbox: each costs a connection."""


class StartedProcess:
    """The output of a program that was started here; the last item is its `ProcessEnd`.

    Whoever closes it before that leaves the program running, and its end is written down all the
    same. Iterating raises `SandboxGone` when the sandbox ends first, and `AgentFailed`.
    """

    def __init__(self, sandbox: Sandbox, stream: ProcessStream) -> None:
        self._sandbox = sandbox
        self._stream = stream
        self._ended = False
        self.pid = stream.pid
        """The number of the process in the sandbox."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output | ProcessEnd:
        event = await anext(self._stream)
        if isinstance(event, ProcessEnd):
            self._ended = True
            _write_end(self._sandbox, self.pid, event)
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        await self._stream.close()
        if not self._ended:
            self._ended = True
            _follow(self._sandbox, self.pid)


async def start_process(
    sandbox: Sandbox,
    config: ProcessConfig,
    *,
    user: str,
    tag: str | None = None,
    pty: PtySize | None = None,
    stdin: bool = False,
    lifetime: float | None = None,
) -> StartedProcess:
    """Run a program, see `AgentClient.start_process`, and write it down."""
    stream = await sandbox.agent.start_process(
        config, user=user, tag=tag, pty=pty, stdin=stdin, lifetime=lifetime
    )
    if sandbox.logbook is not None:
        sandbox.logbook.process_started(sandbox.sandbox_id, stream.pid, config)
    return StartedProcess(sandbox, stream)


def resume_following(sandbox: Sandbox) -> None:
    """After a restart of the server: wait for the ends of what still runs."""
    task = asyncio.create_task(_follow_all(sandbox))
    sandbox.followers.add(task)
    task.add_done_callback(sandbox.followers.discard)


async def _follow_all(sandbox: Sandbox) -> None:
    try:
        for process in await sandbox.agent.list_processes():
            if process.tag == TAG and sandbox.template.start_command is not None:
                with suppress(ProcessNotFound):  # it has ended since it was listed
                    await resume_start_output(sandbox, process.pid)
            else:
                _follow(sandbox, process.pid)
    except AtollError:  # gone, or an agent that lies: then there is nothing to write down
        return


def _follow(sandbox: Sandbox, pid: int) -> None:
    if sandbox.logbook is None or sandbox.ended.is_set():
        return
    if len(sandbox.followers) >= _MOST_FOLLOWED:
        return
    task = asyncio.create_task(_wait_for_end(sandbox, pid))
    sandbox.followers.add(task)
    task.add_done_callback(sandbox.followers.discard)


async def _wait_for_end(sandbox: Sandbox, pid: int) -> None:
    try:
        async with await sandbox.agent.attach_process(pid, output=False) as stream:
            event = await anext(stream)
            if isinstance(event, ProcessEnd):  # anything else is an agent's that was replaced
                _write_end(sandbox, pid, event)
    except AtollError:  # the sandbox ended first, and with it all that ran
        return


def _write_end(sandbox: Sandbox, pid: int, end: ProcessEnd) -> None:
    if sandbox.logbook is not None:
        sandbox.logbook.process_ended(sandbox.sandbox_id, pid, end)
