"""The host's end of one connection to an agent: frames out, checked frames in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Mapping
from typing import Any, cast

from atoll.agent.guest import wire
from atoll.agent.guest.wire import (
    DATA,
    DATA_LIMIT,
    END,
    HEADER_SIZE,
    JSON,
    PTY,
    REQUEST_LIMIT,
    STDERR,
    STDOUT,
)
from atoll.agent.replies import decode_message
from atoll.errors import AgentFailed, AtollError, InvalidInput, SandboxGone

REPLY_LIMIT = 512 * 1024
"""Most bytes of JSON in a reply, unless an operation says otherwise: parsed JSON takes many times
its own size, and a hostile agent chooses what it sends."""

_OUTPUT = frozenset({STDOUT, STDERR, PTY})
_CONTENT = _OUTPUT | {DATA}
_HIGH = 1024 * 1024
_LOW = 256 * 1024
_EVENT_COST = 128
"""What a queued piece costs besides its bytes."""
_WRITE_HIGH = 1024 * 1024
_JOIN = 64 * 1024
"""Small chunks of a body are gathered up to this size before they are sent, and small pieces of
output before they are received."""
_TURN = 256 * 1024
"""After this much that was received without waiting, everyone else gets a turn."""
_MESSAGE_TURNS = 16
"""How much more of a turn a message takes than content of its size."""

Piece = bytes | memoryview
Event = tuple[int, Piece]


class Channel(asyncio.Protocol):
    """One connection. It carries one operation at a time; its user keeps to that.

    Everything received is checked for kind and length before any of it is kept. When its user is
    slow, reading stops, and the kernel passes that on to the agent.
    """

    def __init__(self) -> None:
        self.busy = False
        """Whether an operation is under way. What comes outside one is a violation."""
        self.message_limit = REPLY_LIMIT
        self._transport: asyncio.Transport | None = None
        self._events: deque[tuple[int, Piece | bytearray]] = deque()
        self._weight = 0
        self._received = 0
        """Weight of what was received since this last waited."""
        self._reading_paused = False
        self._writing_paused = False
        self._failure: AtollError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._kind = 0
        self._left = 0
        self._message = bytearray()

    # Protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # Not asserted: uvloop's transports have no common class with these.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._failure is None:
            self._failure = SandboxGone("the connection to the sandbox was lost")
        self._wake()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._writing_paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._failure is not None:
            return
        try:
            if not self.busy:
                raise AgentFailed("the agent spoke without being asked")
            self._parse(data)
        except AgentFailed as failure:
            self.fail(failure)
            return
        if self._weight > _HIGH and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def _parse(self, data: bytes) -> None:
        position, size = 0, len(data)
        view = memoryview(data)
        while position < size:
            if not self._left:
                need = HEADER_SIZE - len(self._head)
                self._head += data[position : position + need]
                position += need
                if len(self._head) < HEADER_SIZE:
                    return
                self._begin_frame()
                continue
            if self._kind == DATA:
                # A file's content is passed on as it is: no copy of it is made here.
                content = view[position : position + self._left]
                position += len(content)
                self._left -= len(content)
                self._push(DATA, content)
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._kind != JSON:
                self._push_output(self._kind, piece)
            elif self._left or self._message:
                self._message += piece
                if not self._left:
                    self._push(JSON, bytes(self._message))
                    self._message.clear()
            else:
                self._push(JSON, piece)

    def _begin_frame(self) -> None:
        kind, length = self._head[0], int.from_bytes(self._head[1:], "big")
        self._head = b""
        if kind == END:
            fits = length == 0
        elif kind == JSON:
            fits = 0 < length <= self.message_limit
        else:
            fits = kind in _CONTENT and 0 < length <= DATA_LIMIT
        if not fits:
            raise AgentFailed(f"the agent sent a frame of kind {kind} and {length} bytes")
        self._kind, self._left = kind, length
        if kind == END:
            self._push(END, b"")

    def _push(self, kind: int, payload: Piece) -> None:
        self._events.append((kind, payload))
        self._weight += len(payload) + _EVENT_COST

    def _push_output(self, kind: int, payload: bytes) -> None:
        """Join it to the piece before, if that is of its kind and nobody has received it yet."""
        if self._events:
            last_kind, last = self._events[-1]
            if last_kind == kind and len(last) + len(payload) <= _JOIN:
                if not isinstance(last, bytearray):
                    last = bytearray(last)
                    self._events[-1] = kind, last
                last += payload
                self._weight += len(payload)
                return
        self._push(kind, payload)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # Receiving ---------------------------------------------------------------------------------

    async def receive(self) -> Event:
        """The next frame: kind and payload. A frame of content may come in several pieces.

        Raises `SandboxGone` when the connection ended and `AgentFailed` when the agent broke the
        protocol.
        """
        if self._received > _TURN:
            self._received = 0
            await asyncio.sleep(0)
        while not self._events:
            if self._failure is not None:
                raise self._failure
            await self._wait()
            self._received = 0
        kind, payload = self._events.popleft()
        weight = len(payload) + _EVENT_COST
        self._weight -= weight
        # What comes of a message takes many times longer than what comes of content.
        self._received += weight * _MESSAGE_TURNS if kind == JSON else weight
        if self._reading_paused and self._weight < _LOW and self._failure is None:
            self._reading_paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return kind, bytes(payload) if isinstance(payload, bytearray) else payload

    async def receive_message(self) -> dict[str, Any]:
        """The next frame, which has to be a message."""
        kind, payload = await self.receive()
        if kind != JSON:
            raise AgentFailed(f"the agent sent a frame of kind {kind} instead of a message")
        return decode_message(payload)

    @property
    def is_idle(self) -> bool:
        """Whether the connection is good for another operation."""
        return (
            self._failure is None
            and not self._events
            and not self._left
            and not self._head
            and not self._writing_paused
        )

    # Sending -----------------------------------------------------------------------------------

    def send_request(self, request: Mapping[str, object]) -> None:
        """Send a request. Raises `InvalidInput` when it is larger than an agent takes, or holds
        text that is not Unicode."""
        try:
            payload = wire.encode_json(request, "strict")
        except UnicodeEncodeError as error:
            raise InvalidInput("the request holds text that is not valid Unicode") from error
        if len(payload) > REQUEST_LIMIT:
            raise InvalidInput(f"the request is larger than {REQUEST_LIMIT} bytes")
        self._write(wire.frame(JSON, payload))

    async def send_body(self, chunks: AsyncIterable[bytes], *, gather: bool) -> bool:
        """Send content and its end, no faster than the agent takes it.

        Stops early, and says so by False, when the agent has answered already: its reply then says
        what is wrong. With `gather`, small chunks are joined, so they may wait for later
        ones.
        """
        joined = bytearray()
        complete = True
        async for chunk in chunks:
            if gather and len(joined) + len(chunk) <= _JOIN:
                joined += chunk
                continue
            if joined:
                self._write_content(joined)
                joined = bytearray()
            self._write_content(chunk)
            while self._writing_paused and not self._events:
                if self._failure is not None:
                    raise self._failure
                await self._wait()
            if self._events:
                complete = False
                break
            if self._failure is not None:
                raise self._failure
        if joined:
            self._write_content(joined)
        self._write(wire.header(END, 0))
        return complete

    def send_content(self, content: bytes) -> None:
        """Send a little content, with more to follow."""
        self._write_content(content)

    def _write_content(self, content: bytes | bytearray) -> None:
        if len(content) <= _JOIN:
            if content:
                self._write(wire.header(DATA, len(content)) + content)
            return
        view = memoryview(content)
        for start in range(0, len(view), DATA_LIMIT):
            piece = view[start : start + DATA_LIMIT]
            self._write(wire.header(DATA, len(piece)))
            self._write(piece)

    def _write(self, data: bytes | memoryview) -> None:
        if self._transport is not None and self._failure is None:
            self._transport.write(data)

    # Ending ------------------------------------------------------------------------------------

    def fail(self, failure: AtollError) -> None:
        """Drop the connection; its user gets the failure."""
        if self._failure is None:
            self._failure = failure
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def abort(self) -> None:
        """Drop the connection."""
        self._events.clear()
        self.fail(SandboxGone("the connection to the sandbox was closed"))
