"""Programs in a sandbox, run from the command line with their input and output as bytes.

Spoken is the same Connect-RPC as by the official SDK, which would decode the output to text.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from protobuf import Oneof
from pyqwest import Client, HTTPTransport

from atoll.cli.api import ControlPlane
from atoll.cli.target import Target
from atoll.doors.e2b.gen import process_pb as pb
from atoll.doors.e2b.gen.process_connect import ProcessClient
from atoll.errors import (
    AtollError,
    HostError,
    InvalidInput,
    NotFound,
    SandboxGone,
    Unauthenticated,
)

_KEEPALIVE_SECONDS = 30
_KINDS: dict[Code, type[AtollError]] = {
    Code.INVALID_ARGUMENT: InvalidInput,
    Code.NOT_FOUND: NotFound,
    Code.UNAUTHENTICATED: Unauthenticated,
}


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    args: tuple[str, ...]
    """For bash."""
    user: str | None = None
    cwd: str | None = None
    envs: dict[str, str] = field(default_factory=dict)
    stdin: bool = False
    size: tuple[int, int] | None = None
    """Columns and rows of its terminal; None for none."""


class Sandbox:
    """One running sandbox, as its envd shows it. An async context manager."""

    def __init__(self, api: ControlPlane, target: Target, made: dict[str, Any]) -> None:
        self._api = api
        self._sandbox_id: str = made["sandboxID"]
        self._headers = {
            "E2b-Sandbox-Id": self._sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": made.get("envdAccessToken") or "",
        }
        trust = Path(target.trust).read_bytes() if target.trust else None
        self._transport = HTTPTransport(tls_ca_cert=trust, tls_include_system_certs=True)
        self._client = ProcessClient(
            target.sandbox_url,
            accept_compression=(),
            send_compression=None,
            http_client=Client(self._transport),
        )

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._transport.aclose()

    async def run(
        self,
        program: Program,
        *,
        on_start: Callable[[int], Awaitable[None]],
        on_output: Callable[[str, bytes], Awaitable[None]],
    ) -> int:
        """Run to the end. Output comes as its kind (stdout, stderr, pty) and bytes.

        Returns the status that a shell would give. Raises `AtollError`.
        """
        config = pb.ProcessConfig(cmd="/bin/bash", args=[*program.args], envs=program.envs)
        if program.cwd is not None:
            config.cwd = program.cwd
        request = pb.StartRequest(process=config, stdin=program.stdin)
        if program.size is not None:
            request.pty = _pty(program.size)
        headers = {**self._headers, "Keepalive-Ping-Interval": str(_KEEPALIVE_SECONDS)}
        if program.user is not None:
            user = base64.b64encode(f"{program.user}:".encode()).decode()
            headers["Authorization"] = f"Basic {user}"
        status: int | None = None
        try:
            # To its very end, even after the last event: a request that is broken off is still
            # being taken down when the interpreter ends, and that aborts it.
            async for response in self._client.start(request, headers=headers):
                event = response.event.event if response.event is not None else None
                if event is None or event.field == "keepalive":
                    continue
                if event.field == "start":
                    await on_start(event.value.pid)
                elif event.field == "data" and event.value.output is not None:
                    await on_output(event.value.output.field, event.value.output.value)
                elif event.field == "end":
                    status = _read_status(event.value)
        except ConnectError as error:
            if error.code in _KINDS:
                remedy = "see to --user, --cwd and --env, which `--help` describes"
                raise _KINDS[error.code](error.message, remedy=remedy) from None
            raise await self._explain_end(error.message) from None
        if status is None:
            raise await self._explain_end("the program's output ended too early")
        return status

    async def _explain_end(self, message: str) -> AtollError:
        """Why a stream broke off: whoever reads it cares for the sandbox, not for HTTP."""
        try:
            await asyncio.to_thread(self._api.call, "GET", "sandboxes", self._sandbox_id)
        except NotFound:
            return SandboxGone(
                f"sandbox {self._sandbox_id} has ended",
                remedy="`atoll sandbox list` shows those that run; `… create` makes one",
            )
        except HostError:
            return HostError(
                f"the server is gone: {self._api.url} does not answer any more",
                remedy="start it again; sandboxes live on, unless it was told to end them",
            )
        except AtollError as error:
            return error
        return HostError(message, remedy="try again: the sandbox is still there")

    async def feed(self, pid: int, pieces: AsyncIterator[bytes], *, pty: bool) -> None:
        """Write to a program's input until there is no more; a program that takes none is no error.

        Raises `AtollError`.
        """
        try:
            async for piece in pieces:
                given: Oneof[Any, bytes] = Oneof("pty" if pty else "stdin", piece)
                await self._client.send_input(
                    pb.SendInputRequest(process=_select(pid), input=pb.ProcessInput(input=given)),
                    headers=self._headers,
                )
            if not pty:
                await self._client.close_stdin(
                    pb.CloseStdinRequest(process=_select(pid)), headers=self._headers
                )
        except ConnectError as error:
            if error.code not in (Code.NOT_FOUND, Code.INVALID_ARGUMENT):
                raise _explain(error) from None

    async def resize(self, pid: int, size: tuple[int, int]) -> None:
        """Give the terminal another size, if it is still there."""
        try:
            await self._client.update(
                pb.UpdateRequest(process=_select(pid), pty=_pty(size)), headers=self._headers
            )
        except ConnectError as error:
            if error.code is not Code.NOT_FOUND:
                raise _explain(error) from None

    async def kill(self, pid: int) -> None:
        """Kill the program, if it still runs."""
        request = pb.SendSignalRequest(process=_select(pid), signal=pb.Signal.SIGKILL)
        try:
            await self._client.send_signal(request, headers=self._headers)
        except ConnectError as error:
            if error.code is not Code.NOT_FOUND:
                raise _explain(error) from None


def _pty(size: tuple[int, int]) -> pb.PTY:
    return pb.PTY(size=pb.PTY.Size(cols=size[0], rows=size[1]))


def _select(pid: int) -> pb.ProcessSelector:
    selector: Oneof[Literal["pid"], int] = Oneof("pid", pid)
    return pb.ProcessSelector(selector=selector)


def _read_status(end: pb.ProcessEvent.EndEvent) -> int:
    # A program that a signal ended has no exit code; its text names the signal, not its number.
    return end.exit_code if end.exited else 255


def _explain(error: ConnectError) -> AtollError:
    kind = _KINDS.get(error.code, HostError)
    return kind(error.message)
