"""`process.Process`: start, watch, feed, signal and list the processes of a sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Literal, TypeAlias, TypeVar, cast

from connectrpc.request import RequestContext
from protobuf import Oneof

from atoll.agent.model import Output, ProcessConfig, ProcessEnd, PtySize
from atoll.agent.streams import ProcessStream
from atoll.doors.e2b.gen import process_pb as pb
from atoll.doors.e2b.gen.process_connect import Process
from atoll.doors.e2b.outflow import Outflow
from atoll.doors.e2b.rpc import wired_errors
from atoll.doors.lines import Line
from atoll.errors import InvalidInput
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.processes import StartedProcess, start_process

_SIGNALS = (pb.Signal.SIGTERM, pb.Signal.SIGKILL)
_DEFAULT_SIZE = PtySize(cols=80, rows=24)

_Stdout: TypeAlias = Oneof[Literal["stdout"], bytes]
_Stderr: TypeAlias = Oneof[Literal["stderr"], bytes]
_Pty: TypeAlias = Oneof[Literal["pty"], bytes]

_KILL_GRACE_SECONDS = 0.25
"""The client is told first that the time is over: the end of a killed program says less."""

Response = TypeVar("Response", pb.StartResponse, pb.ConnectResponse)


class Processes(Process):
    """The service, for one request."""

    def __init__(self, sandbox: Sandbox, line: Line, *, user: str, keepalive: float) -> None:
        self._sandbox = sandbox
        self._line = line
        self._user = user
        self._keepalive = keepalive

    def start(
        self, request: pb.StartRequest, ctx: RequestContext[Any, Any]
    ) -> AsyncGenerator[pb.StartResponse]:
        """Run a command and stream its output; it outlives the stream.

        But not the time that its client gives: that is the command's own, as in E2B's envd, so that
        no runaway program is left behind by a caller who set it a limit.
        """

        async def begin() -> StartedProcess:
            # Clients that leave `stdin` out are older than the field and expect an open stdin.
            stdin = request.stdin if request.has_field("stdin") else True
            return await start_process(
                self._sandbox,
                self._config(request.process),
                user=self._user,
                tag=request.tag if request.has_field("tag") else None,
                pty=_pty_size(request.pty) if request.pty is not None else None,
                stdin=stdin,
                lifetime=None if left is None else left / 1000 + _KILL_GRACE_SECONDS,
            )

        left = ctx.timeout_ms
        return self._follow(begin, pb.StartResponse, ctx)

    def connect(
        self, request: pb.ConnectRequest, ctx: RequestContext[Any, Any]
    ) -> AsyncGenerator[pb.ConnectResponse]:
        """Stream the further output of a running process."""

        async def begin() -> ProcessStream:
            return await self._sandbox.agent.attach_process(_selector(request.process))

        return self._follow(begin, pb.ConnectResponse, ctx)

    async def list(self, request: pb.ListRequest, ctx: RequestContext[Any, Any]) -> pb.ListResponse:
        """List the processes that were started through this service and still run."""
        with wired_errors(self._line):
            found = await self._sandbox.agent.list_processes()
        processes = []
        for each in found:
            # As the client gave them: without the sandbox's own variables.
            envs = dict(each.config.envs.items() - self._sandbox.envs.items())
            config = pb.ProcessConfig(cmd=each.config.cmd, args=[*each.config.args], envs=envs)
            if each.config.cwd is not None:
                config.cwd = each.config.cwd
            info = pb.ProcessInfo(config=config, pid=each.pid)
            if each.tag is not None:
                info.tag = each.tag
            processes.append(info)
        return pb.ListResponse(processes=processes)

    async def update(
        self, request: pb.UpdateRequest, ctx: RequestContext[Any, Any]
    ) -> pb.UpdateResponse:
        """Resize a terminal."""
        with wired_errors(self._line):
            if request.pty is None or request.pty.size is None:
                raise InvalidInput("the request names no terminal size")
            size = _pty_size(request.pty)
            await self._sandbox.agent.resize(_selector(request.process), size)
        return pb.UpdateResponse()

    async def send_input(
        self, request: pb.SendInputRequest, ctx: RequestContext[Any, Any]
    ) -> pb.SendInputResponse:
        """Write to a process's stdin or terminal."""
        with wired_errors(self._line):
            data, pty = _input(request.input)
            await self._sandbox.agent.send_input(_selector(request.process), data, pty=pty)
        return pb.SendInputResponse()

    async def stream_input(
        self, request: AsyncIterator[pb.StreamInputRequest], ctx: RequestContext[Any, Any]
    ) -> pb.StreamInputResponse:
        """Write to a process's stdin or terminal, piece by piece in order."""
        with wired_errors(self._line):
            first = await anext(request, None)
            if first is None or first.event is None or first.event.field != "start":
                raise InvalidInput("the first message of the stream must be `start`")
            selector = _selector(first.event.value.process)
            # Which of the two inputs it is shows with the first piece.
            async for data, pty in _inputs(request):
                rest = _same_input(request, data, pty)
                await self._sandbox.agent.send_input(selector, rest, pty=pty)
        return pb.StreamInputResponse()

    async def close_stdin(
        self, request: pb.CloseStdinRequest, ctx: RequestContext[Any, Any]
    ) -> pb.CloseStdinResponse:
        """Let the process read the end of its stdin."""
        with wired_errors(self._line):
            await self._sandbox.agent.close_stdin(_selector(request.process))
        return pb.CloseStdinResponse()

    async def send_signal(
        self, request: pb.SendSignalRequest, ctx: RequestContext[Any, Any]
    ) -> pb.SendSignalResponse:
        """Send SIGTERM or SIGKILL to a process."""
        with wired_errors(self._line):
            if request.signal not in _SIGNALS:
                raise InvalidInput("the signal must be SIGNAL_SIGTERM or SIGNAL_SIGKILL")
            await self._sandbox.agent.signal(_selector(request.process), int(request.signal))
        return pb.SendSignalResponse()

    def _config(self, process: pb.ProcessConfig | None) -> ProcessConfig:
        if process is None or not process.cmd:
            raise InvalidInput("the request names no command")
        return ProcessConfig(
            cmd=process.cmd,
            args=tuple(process.args),
            envs={**self._sandbox.envs, **process.envs},
            cwd=process.cwd or self._sandbox.template.workdir,
        )

    async def _follow(
        self,
        begin: Callable[[], Awaitable[ProcessStream | StartedProcess]],
        response: type[Response],
        ctx: RequestContext[Any, Any],
    ) -> AsyncGenerator[Response]:
        """Turn a process's output into events: `start` first, `end` last, signs of life between."""
        with wired_errors(self._line):
            async with await begin() as stream:
                yield response(event=_start_event(stream.pid))
                left = ctx.timeout_ms
                timeout = None if left is None else left / 1000
                outflow = Outflow(stream, keepalive=self._keepalive, timeout=timeout)
                async with contextlib.aclosing(outflow.events()) as events:
                    async for event in events:
                        if event is None:
                            yield response(event=_keepalive_event())
                        elif isinstance(event, ProcessEnd):
                            yield response(event=_end_event(event))
                        else:
                            yield response(event=_data_event(event))


def _start_event(pid: int) -> pb.ProcessEvent:
    event: Oneof[Literal["start"], pb.ProcessEvent.StartEvent]
    event = Oneof("start", pb.ProcessEvent.StartEvent(pid=pid))
    return pb.ProcessEvent(event=event)


def _data_event(output: Output) -> pb.ProcessEvent:
    # The agent's kinds are named as the protocol names them.
    chunk = cast("_Stdout | _Stderr | _Pty", Oneof(output.kind, output.data))
    event: Oneof[Literal["data"], pb.ProcessEvent.DataEvent]
    event = Oneof("data", pb.ProcessEvent.DataEvent(output=chunk))
    return pb.ProcessEvent(event=event)


def _keepalive_event() -> pb.ProcessEvent:
    event: Oneof[Literal["keepalive"], pb.ProcessEvent.KeepAlive]
    event = Oneof("keepalive", pb.ProcessEvent.KeepAlive())
    return pb.ProcessEvent(event=event)


def _end_event(end: ProcessEnd) -> pb.ProcessEvent:
    last = pb.ProcessEvent.EndEvent(exit_code=end.exit_code, exited=end.exited, status=end.status)
    if end.error is not None:
        last.error = end.error
    event: Oneof[Literal["end"], pb.ProcessEvent.EndEvent] = Oneof("end", last)
    return pb.ProcessEvent(event=event)


def _selector(selector: pb.ProcessSelector | None) -> int | str:
    if selector is None or selector.selector is None:
        raise InvalidInput("the request names no process")
    return selector.selector.value


def _pty_size(pty: pb.PTY) -> PtySize:
    if pty.size is None:
        return _DEFAULT_SIZE
    if not (0 < pty.size.cols < 65536 and 0 < pty.size.rows < 65536):
        raise InvalidInput("a terminal has from 1 to 65535 columns and rows")
    return PtySize(cols=pty.size.cols, rows=pty.size.rows)


def _input(given: pb.ProcessInput | None) -> tuple[bytes, bool]:
    if given is None or given.input is None:
        raise InvalidInput("the request has no input")
    return given.input.value, given.input.field == "pty"


async def _inputs(
    requests: AsyncIterator[pb.StreamInputRequest],
) -> AsyncGenerator[tuple[bytes, bool]]:
    async for request in requests:
        if request.event is None or request.event.field == "keepalive":
            continue
        if request.event.field == "start":
            raise InvalidInput("only the first message of the stream may be `start`")
        yield _input(request.event.value.input)


async def _same_input(
    requests: AsyncIterator[pb.StreamInputRequest], data: bytes, pty: bool
) -> AsyncGenerator[bytes]:
    yield data
    async for more, kind in _inputs(requests):
        if kind != pty:
            raise InvalidInput("one stream feeds either stdin or the terminal")
        yield more
