"""Operations that go on: a process's output, a file's content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Self

from atoll.agent.channel import Channel, Piece
from atoll.agent.guest.wire import DATA, END, JSON, PTY, STDERR, STDOUT
from atoll.agent.model import Entry, Output, ProcessEnd
from atoll.agent.replies import (
    decode_end,
    decode_message,
    read_error,
    take_result,
)
from atoll.errors import AgentFailed, PathNotFound, ProcessNotFound

_KINDS: Mapping[int, Literal["stdout", "stderr", "pty"]] = {
    STDOUT: "stdout",
    STDERR: "stderr",
    PTY: "pty",
}

Release = Callable[[Channel], None]


class Stream:
    """Holds a channel until the agent has closed the operation, or its user has had enough."""

    def __init__(self, channel: Channel, release: Release) -> None:
        self._channel = channel
        self._release = release
        self._open = True

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        self.drop()

    def drop(self) -> None:
        """What `close` does, for those who cannot wait."""
        if self._open:
            self._open = False
            self._channel.abort()
            self._release(self._channel)

    def _finish(self) -> None:
        """The agent has closed the operation: the channel can serve another."""
        self._open = False
        self._release(self._channel)

    async def _receive(self) -> tuple[int, Piece]:
        if not self._open:
            raise StopAsyncIteration
        try:
            return await self._channel.receive()
        except BaseException:
            await self.close()
            raise


class ProcessStream(Stream):
    """The output of a process as it comes; the last item is its `ProcessEnd`.

    `close` (or a lost connection) leaves the process running. Iterating raises `SandboxGone` when
    the sandbox ends first, and `AgentFailed`.
    """

    def __init__(self, channel: Channel, release: Release, pid: int) -> None:
        super().__init__(channel, release)
        self.pid = pid
        """The number of the process in the sandbox."""

    async def __anext__(self) -> Output | ProcessEnd:
        kind, payload = await self._receive()
        name = _KINDS.get(kind)
        if name is not None:
            return Output(name, bytes(payload))
        try:
            if kind != JSON:
                raise AgentFailed(f"the agent sent a frame of kind {kind} among output")
            end = decode_end(take_result(decode_message(payload), ProcessNotFound))
        except BaseException:
            await self.close()
            raise
        self._finish()
        return end


class FileReader(Stream):
    """The content of a file, in chunks.

    Iterating raises what reading in the sandbox raised, `SandboxGone` and `AgentFailed`.
    """

    def __init__(self, channel: Channel, release: Release, entry: Entry) -> None:
        super().__init__(channel, release)
        self.entry = entry
        """What is read; known before the content."""

    async def __anext__(self) -> Piece:
        kind, payload = await self._receive()
        if kind == DATA:
            return payload
        try:
            if kind == END:
                take_result(await self._channel.receive_message(), PathNotFound)
            elif kind == JSON:
                raise read_error(decode_message(payload), PathNotFound)
            else:
                raise AgentFailed(f"the agent sent a frame of kind {kind} within a file")
        except BaseException:
            await self.close()
            raise
        self._finish()
        raise StopAsyncIteration
