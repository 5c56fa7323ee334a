"""The connections to one sandbox's agent, and the shapes that operations have."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

from atoll.agent.channel import REPLY_LIMIT, Channel
from atoll.agent.guest.wire import JSON
from atoll.agent.replies import decode_message, read_error, take_object, take_result
from atoll.errors import AgentFailed, Exhausted, NotFound, PathNotFound, SandboxGone

Dial = Callable[[], Awaitable[socket.socket]]
"""Opens a new connection to the agent: a connected unix stream socket."""

TREE_SECONDS = 3600.0
"""For operations that go through whole directory trees."""

_ANSWER_SECONDS = 60.0
"""For operations that the agent answers at once."""
_IDLE_KEPT = 4
_BUFFER = 1024 * 1024
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.016
_GATHERED_LIMIT = 32 * 1024 * 1024
"""Most bytes of replies that one operation puts together. The agent describes a file in about 200
bytes besides its name and path, so this holds 100 000 files with paths of some 120 characters."""
_HELD_FACTOR = 3
"""Most memory that the parsed replies may take, as a multiple of the bytes of the replies."""
_GATHERS = 2
"""Most operations on one sandbox that put replies together at the same time; others wait."""


class Calls:
    """Makes calls to one agent. Each has a connection of its own; idle ones are used again.

    All raise `SandboxGone` when the sandbox has ended and `AgentFailed` when the agent breaks the
    protocol or does not answer.
    """

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._idle: list[Channel] = []
        self._channels: set[Channel] = set()
        self._closed = False
        self._gathers = asyncio.Semaphore(_GATHERS)

    async def close(self) -> None:
        """Drop all connections; operations under way raise `SandboxGone`. Idempotent."""
        self._closed = True
        self._idle.clear()
        for channel in tuple(self._channels):
            channel.abort()
        self._channels.clear()

    async def _acquire(self) -> Channel:
        while self._idle:
            channel = self._idle.pop()
            if channel.is_idle:
                channel.busy = True
                return channel
            self.discard(channel)
        try:
            return await self._connect()
        except OSError as error:
            raise SandboxGone(f"the sandbox cannot be reached: {error}") from error

    async def _connect(self) -> Channel:
        if self._closed:
            raise SandboxGone("the sandbox has ended")
        connection = await self._dial()
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            loop = asyncio.get_running_loop()
            _, channel = await loop.create_unix_connection(Channel, sock=connection)
        except BaseException:
            connection.close()
            raise
        self._channels.add(channel)
        channel.busy = True
        return channel

    def release(self, channel: Channel) -> None:
        """Give a connection back when its operation is closed; else it is dropped."""
        channel.busy = False
        channel.message_limit = REPLY_LIMIT
        if channel.is_idle and not self._closed and len(self._idle) < _IDLE_KEPT:
            self._idle.append(channel)
        else:
            self.discard(channel)

    def discard(self, channel: Channel) -> None:
        """Drop a connection."""
        self._channels.discard(channel)
        channel.abort()

    async def call(
        self,
        op: str,
        request: Mapping[str, object],
        *,
        not_found: type[NotFound] = PathNotFound,
        timeout: float = _ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Do an operation of one request and one reply."""
        channel = await self._acquire()
        try:
            async with asyncio.timeout(timeout):
                channel.send_request({"op": op, **request})
                message = await channel.receive_message()
        except TimeoutError as error:
            self.discard(channel)
            raise AgentFailed(f"the agent did not answer {op} within {timeout:g} s") from error
        except BaseException:
            self.discard(channel)
            raise
        self.release(channel)
        return take_result(message, not_found)

    async def open(
        self, op: str, request: Mapping[str, object], key: str, not_found: type[NotFound]
    ) -> tuple[Channel, dict[str, Any]]:
        """Begin an operation that goes on; return what its first message holds under `key`."""
        channel = await self._acquire()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                channel.send_request({"op": op, **request})
                message = await channel.receive_message()
            if "error" not in message:
                return channel, take_object(message, key)
        except TimeoutError as error:
            self.discard(channel)
            raise AgentFailed(f"the agent did not answer {op} in time") from error
        except BaseException:
            self.discard(channel)
            raise
        if request.get("body"):  # The agent waits for it.
            self.discard(channel)
        else:
            self.release(channel)
        raise read_error(message, not_found)

    async def gather(
        self,
        op: str,
        request: Mapping[str, object],
        take: Callable[[dict[str, Any]], int],
        *,
        message_limit: int = REPLY_LIMIT,
        limit: int = _GATHERED_LIMIT,
    ) -> None:
        """Do an operation that gives any number of messages before the closing one.

        `take` gets each, and returns how many bytes of memory it keeps of it. Raises `Exhausted`
        when there are more than `limit` bytes of messages, or thrice that of memory.
        """
        async with self._gathers:
            await self._gather(op, request, take, message_limit, limit)

    async def _gather(
        self,
        op: str,
        request: Mapping[str, object],
        take: Callable[[dict[str, Any]], int],
        message_limit: int,
        limit: int,
    ) -> None:
        channel = await self._acquire()
        channel.message_limit = message_limit
        received = held = 0
        try:
            async with asyncio.timeout(TREE_SECONDS):
                channel.send_request({"op": op, **request})
                while True:
                    kind, payload = await channel.receive()
                    if kind != JSON:
                        raise AgentFailed(f"the agent sent no message for {op}")
                    received += len(payload)
                    if received > limit:
                        raise Exhausted("the sandbox has too many entries for one listing")
                    message = decode_message(payload)
                    if "ok" in message or "error" in message:
                        break
                    held += take(message)
                    if held > _HELD_FACTOR * limit:
                        raise Exhausted("the sandbox has too many entries for one listing")
        except TimeoutError as error:
            self.discard(channel)
            raise AgentFailed(f"the agent did not finish {op} in time") from error
        except BaseException:
            self.discard(channel)
            raise
        self.release(channel)
        take_result(message, PathNotFound)

    async def upload(
        self,
        op: str,
        request: Mapping[str, object],
        chunks: AsyncIterable[bytes],
        *,
        gather: bool,
        not_found: type[NotFound],
    ) -> dict[str, Any]:
        """Do an operation whose request is followed by content."""
        channel = await self._acquire()
        try:
            channel.send_request({"op": op, "body": True, **request})
            complete = await channel.send_body(chunks, gather=gather)
            message = await channel.receive_message()
            if not complete and "error" not in message:
                raise AgentFailed(f"the agent answered {op} before it had everything")
        except BaseException:
            self.discard(channel)
            raise
        self.release(channel)
        return take_result(message, not_found)

    async def wait_until_ready(self) -> None:
        """Connect to an agent that may still be starting, for as long as it takes."""
        pause = _FIRST_PAUSE
        while True:
            try:
                self.release(await self._connect())
                return
            except OSError:  # It does not listen yet.
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
