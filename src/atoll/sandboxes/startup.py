"""What runs in a sandbox before it is handed out: the start command of its template."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from atoll.agent.model import Output, ProcessConfig, ProcessEnd
from atoll.agent.streams import ProcessStream
from atoll.errors import AtollError, HostError, SandboxGone
from atoll.sandboxes.model import Sandbox
from atoll.templates.model import Template
from atoll.templates.profile import profile_files

TAG = "start"
"""By this tag the process can be found and attached to."""

_ENVS_FILE = "/run/e2b/envs.json"
_POLL_SECONDS = 0.05
_LAST_BYTES = 2000
_LONGEST_LINE = 4096
_BURST = 200
_LINES_PER_SECOND = 10
"""What is written to the log of a start command that will not stop talking."""


class StartOutput:
    """What a start command prints, written to the sandbox's log line by line."""

    def __init__(self, sandbox: Sandbox, stream: ProcessStream) -> None:
        self._sandbox = sandbox
        self._stream = stream
        self._rest = {"stdout": b"", "stderr": b"", "pty": b""}
        self._allowance = float(_BURST)
        self._counted = time.monotonic()
        self._last = b""
        self.end: asyncio.Future[ProcessEnd] = asyncio.get_running_loop().create_future()
        """How it ended, when it has; an `AtollError` when the sandbox was gone before."""
        task = asyncio.create_task(self._follow())
        sandbox.followers.add(task)
        task.add_done_callback(sandbox.followers.discard)

    def tail(self) -> str:
        """The end of what it printed, for an error message."""
        return self._last.decode(errors="replace").strip() or "it printed nothing"

    async def _follow(self) -> None:
        try:
            async with self._stream:
                async for event in self._stream:
                    if isinstance(event, ProcessEnd):
                        self._finish(event)
                    else:
                        self._take(event)
        except AtollError as error:
            self.end.set_exception(error)
            self.end.exception()  # whether anybody waits for it or not
        finally:
            if not self.end.done():  # not a cancellation: whoever waits for it was not cancelled
                self.end.set_exception(SandboxGone(f"sandbox {self._sandbox.sandbox_id} has ended"))
                self.end.exception()

    def _take(self, output: Output) -> None:
        self._last = (self._last + output.data)[-_LAST_BYTES:]
        *lines, rest = (self._rest[output.kind] + output.data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rest[output.kind] = rest
        for line in lines:
            self._write(output.kind, line)

    def _finish(self, end: ProcessEnd) -> None:
        for kind, rest in self._rest.items():
            if rest:
                self._write(kind, rest)
        if self._sandbox.logbook is not None:
            self._sandbox.logbook.process_ended(self._sandbox.sandbox_id, self._stream.pid, end)
        self.end.set_result(end)

    def _write(self, kind: str, line: bytes) -> None:
        now = time.monotonic()
        earned = (now - self._counted) * _LINES_PER_SECOND
        self._allowance, self._counted = min(_BURST, self._allowance + earned), now
        if self._allowance < 1 or self._sandbox.logbook is None:
            return
        self._allowance -= 1
        self._sandbox.logbook.record(
            self._sandbox.sandbox_id,
            line.decode(errors="replace").rstrip("\r"),
            logger="start",
            event_type=kind,
        )


def boot_files(template: Template, sandbox_id: str) -> dict[str, str]:
    """What is written before the first process runs, by path."""
    return {
        **profile_files(template.envs),
        # Where E2B's own agent leaves them, for programs that look for files.
        "/run/e2b/.E2B_SANDBOX": "true",
        "/run/e2b/.E2B_SANDBOX_ID": sandbox_id,
        "/run/e2b/.E2B_TEMPLATE_ID": template.template_id,
    }


def standard_envs(sandbox: Sandbox) -> dict[str, str]:
    """The variables that every command has, whoever owns the sandbox."""
    return {
        **sandbox.template.envs,
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": sandbox.sandbox_id,
        "E2B_TEMPLATE_ID": sandbox.template.template_id,
    }


async def pass_on_envs(sandbox: Sandbox, envs: Mapping[str, str]) -> None:
    """Leave the variables of a create where what was started before can find them."""
    if envs and sandbox.template.start_command is not None:
        await sandbox.agent.configure({_ENVS_FILE: json.dumps(dict(envs))})


async def run_start_command(
    sandbox: Sandbox, envs: Mapping[str, str], *, ready_seconds: float
) -> None:
    """Start it and wait until the ready command succeeds. Does nothing when there is neither.

    Raises `HostError` that holds the end of its output when it fails, or is not ready in time.
    """
    template = sandbox.template
    if template.start_command is None and template.ready_command is None:
        return
    output = await _start(sandbox, envs)
    ready = asyncio.create_task(_wait_until_ready(sandbox, envs))
    try:
        async with asyncio.timeout(ready_seconds):
            ends: set[asyncio.Future[Any]] = {ready, *([output.end] if output else [])}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if output is not None and not ready.done():
                # It may do its work and end, so long as that work leaves the sandbox ready.
                end = output.end.result()
                if end.exit_code:
                    raise HostError(
                        f"the start command of the template failed ({end.status}): {output.tail()}"
                    )
            await ready
    except TimeoutError:
        said = output.tail() if output is not None else "it has no start command"
        raise HostError(
            f"what the template starts was not ready within {ready_seconds:g} s: {said}"
        ) from None
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)


async def _start(sandbox: Sandbox, envs: Mapping[str, str]) -> StartOutput | None:
    template = sandbox.template
    if template.start_command is None:
        return None
    config = _shell(sandbox, template.start_command, envs)
    stream = await sandbox.agent.start_process(config, user=template.user, tag=TAG)
    if sandbox.logbook is not None:
        sandbox.logbook.process_started(sandbox.sandbox_id, stream.pid, config)
    return StartOutput(sandbox, stream)


async def resume_start_output(sandbox: Sandbox, pid: int) -> None:
    """After a restart of the server: go on writing down what the start command prints.

    Raises `ProcessNotFound` when it has ended, and `SandboxGone`.
    """
    StartOutput(sandbox, await sandbox.agent.attach_process(pid))


async def _wait_until_ready(sandbox: Sandbox, envs: Mapping[str, str]) -> None:
    template = sandbox.template
    if template.ready_command is None:
        return
    check = _shell(sandbox, template.ready_command, envs)
    while True:
        async with await sandbox.agent.start_process(check, user=template.user) as stream:
            async for event in stream:
                if isinstance(event, ProcessEnd) and event.exit_code == 0:
                    return
        await asyncio.sleep(_POLL_SECONDS)


def _shell(sandbox: Sandbox, command: str, envs: Mapping[str, str]) -> ProcessConfig:
    return ProcessConfig("/bin/bash", ("-l", "-c", command), envs, sandbox.template.workdir)
