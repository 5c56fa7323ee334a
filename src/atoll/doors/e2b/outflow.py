"""A process's output on its way to one client: joined, bounded, and never silent for too long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Literal

from connectrpc.code import Code
from connectrpc.errors import ConnectError

from atoll.agent.model import Output, ProcessEnd

_JOINED = 64 * 1024
"""Bytes up to which pieces that wait for the client are joined to one."""
_HELD = 256 * 1024
"""Bytes that may wait for the client before no more are taken from the agent."""


class _Piece:
    """Adjoining output of one kind."""

    __slots__ = ("kind", "parts", "size")

    def __init__(self, output: Output) -> None:
        self.kind: Literal["stdout", "stderr", "pty"] = output.kind
        self.parts = [output.data]
        self.size = len(output.data)

    def join(self) -> Output:
        return Output(self.kind, self.parts[0] if len(self.parts) == 1 else b"".join(self.parts))


class Outflow:
    """Takes from a process's stream in a task of its own, so that waiting for it can be broken off.

    What a slow client leaves waiting is joined: a program that writes line by line costs one
    message per turn, not one per line.
    """

    def __init__(
        self,
        stream: AsyncIterator[Output | ProcessEnd],
        *,
        keepalive: float,
        timeout: float | None = None,
    ) -> None:
        self._stream = stream
        self._keepalive = keepalive
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._waiting: deque[_Piece | ProcessEnd] = deque()
        self._held = 0
        self._failure: BaseException | None = None
        self._over = False
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def events(self) -> AsyncGenerator[Output | ProcessEnd | None]:
        """The output and then the end; None whenever the client should have a sign of life.

        Raises what the stream raises, and `ConnectError` when the client's time is over.
        """
        pump = asyncio.create_task(self._pump())
        try:
            while True:
                while self._waiting:
                    yield self._take()
                if self._failure is not None:
                    raise self._failure
                if self._over:
                    return
                await self._wait_for_news()
                if not self._waiting and not self._over:
                    yield None
        finally:
            pump.cancel()

    async def _pump(self) -> None:
        try:
            async for event in self._stream:
                self._add(event)
                _wake(self._news)
                while self._held > _HELD:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        except Exception as error:
            self._failure = error
        self._over = True
        _wake(self._news)

    def _add(self, event: Output | ProcessEnd) -> None:
        if isinstance(event, ProcessEnd):
            self._waiting.append(event)
            return
        size = len(event.data)
        self._held += size
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, _Piece) and last.kind == event.kind and last.size + size <= _JOINED:
            last.parts.append(event.data)
            last.size += size
        else:
            self._waiting.append(_Piece(event))

    def _take(self) -> Output | ProcessEnd:
        first = self._waiting.popleft()
        if isinstance(first, ProcessEnd):
            return first
        self._held -= first.size
        if self._held <= _HELD:
            _wake(self._room)
        return first.join()

    async def _wait_for_news(self) -> None:
        patience = self._keepalive
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise _deadline_passed()
            patience = min(patience, left)
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        timer = loop.call_later(patience, _wake, self._news)
        try:
            await self._news
        finally:
            timer.cancel()
        if not self._waiting and self._deadline is not None and time.monotonic() >= self._deadline:
            raise _deadline_passed()


def _deadline_passed() -> ConnectError:
    message = "the time that the client gave is over"
    return ConnectError(Code.DEADLINE_EXCEEDED, message)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
