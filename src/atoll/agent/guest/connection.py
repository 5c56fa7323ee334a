"""One connection from the host: requests in, frames out, one operation at a time."""

from __future__ import annotations

import os

from . import wire
from .loop import GONE, HANGUP, READ, WRITE, Loop
from .refusal import Refusal, refuse_resources
from .wire import DATA_LIMIT, END, HEADER_SIZE, JSON, REQUEST_LIMIT, decode_json

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable

_TURN = 4
"""Data frames that a connection may bring before others get their turn."""
_BUFFERS_PER_WRITE = 64

_scratch = memoryview(bytearray(DATA_LIMIT))
"""Where incoming content lands on its way to a file or pipe; shared, as nothing stays in it."""


class Task:
    """What a connection is busy with after its request was read."""

    def on_room(self) -> None:
        """All that was sent has left."""

    def on_gone(self) -> None:
        """The host closed the connection. Nothing can be sent any more."""


class Body(Task):
    """A task that takes content from the host."""

    def on_data(self, piece: memoryview) -> None:
        """Take content; it is only valid during the call. Raises `Refusal`."""

    def on_end(self) -> None:
        """All content has come. Raises `Refusal`."""


class Connection:
    """The state of one connection.

    It reads exactly what it can pass on at once, so a task that takes no more content (`hold`)
    makes the kernel's buffer fill and the host wait: there is no other flow control.
    """

    def __init__(
        self, fd: int, loop: Loop, dispatch: Callable[[Connection, dict[str, object]], None]
    ) -> None:
        self.fd = fd
        self.pending = 0
        """Bytes that the kernel has not taken yet."""
        self.task: Task | None = None
        self.closed = False
        self._loop = loop
        self._dispatch = dispatch
        self._out: list[bytes | memoryview] = []
        self._head = b""
        self._kind = 0
        self._left = 0
        self._request = bytearray()
        self._body: Body | None = None
        self._body_open = False
        self._held = False
        self._closing = False
        self._wants_room = False
        loop.watch(fd, READ | HANGUP, self._on_event)

    # Sending -----------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """Queue whole frames. `flush` or the end of the current callback sends them."""
        if not self.closed:
            self._out.append(data)
            self.pending += len(data)

    def finish(self, result: dict[str, object] | None = None) -> None:
        """Close the operation successfully."""
        self._close_operation({"ok": result or {}})

    def fail(self, refusal: Refusal) -> None:
        """Close the operation with an error."""
        self._close_operation(refusal.reply())

    def _close_operation(self, message: dict[str, object]) -> None:
        self.task = self._body = None
        self._held = False
        self.send(wire.message(message))
        self.flush()

    def flush(self) -> None:
        """Give the kernel what it takes now, and wait for the rest."""
        while self._out and not self.closed:
            try:
                written = os.writev(self.fd, self._out[:_BUFFERS_PER_WRITE])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.pending -= written
            done = 0
            for buffer in self._out:
                size = len(buffer)
                if written < size:
                    break
                written -= size
                done += 1
            del self._out[:done]
            if written:
                self._out[0] = memoryview(self._out[0])[written:]
        if self._closing and not self._out:
            self.close()
        self._update()

    def request_room(self) -> None:
        """Have the task called (`on_room`) as soon as all that was sent has left."""
        self._wants_room = True
        self.flush()

    # Waiting -----------------------------------------------------------------------------------

    def hold(self) -> None:
        """Take no more content until `resume`."""
        self._held = True
        self._update()

    def resume(self) -> None:
        """Take content again."""
        self._held = False
        self._update()

    def close(self) -> None:
        """Drop the connection and tell the task."""
        if self.closed:
            return
        self.closed = True
        self._loop.forget(self.fd)
        os.close(self.fd)
        self._out.clear()
        self.pending = 0
        task, self.task, self._body = self.task, None, None
        if task is not None:
            task.on_gone()

    def detach(self) -> None:
        """Leave the connection to a forked child until `reattach`."""
        self._loop.change(self.fd, HANGUP)

    def reattach(self) -> None:
        """Take the connection back from a child that has closed the operation."""
        if not self.closed:
            os.set_blocking(self.fd, False)
            self.task = self._body = None
            self._update()

    def _reading(self) -> bool:
        if self._closing or self._held:
            return False
        return self.task is None or self._body_open

    def _update(self) -> None:
        if not self.closed:
            mask = HANGUP
            if self._out or self._wants_room:
                mask |= WRITE
            elif self._reading():
                mask |= READ
            self._loop.change(self.fd, mask)

    def _on_event(self, events: int) -> None:
        try:
            self._handle(events)
        except Exception:
            # The host has to learn of it, and there is no telling what has been sent so far.
            self.close()
            raise

    def _handle(self, events: int) -> None:
        if events & WRITE:
            self.flush()
            if not self._out:
                self._wants_room = False
                if self.task is not None:
                    self.task.on_room()
                self.flush()
        if events & READ:
            self._read()
            self.flush()
        elif events & GONE and not (events & WRITE):
            self.close()

    # Receiving ---------------------------------------------------------------------------------

    def _read(self) -> None:
        turns = _TURN
        while turns and not self.closed and not self._out and self._reading():
            try:
                if not self._step():
                    return
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            except Refusal as refusal:
                self.fail(refusal)
            except Exception as error:  # A defect here must not end the sandbox.
                self.fail(Refusal("internal", f"the agent failed: {error!r}"))
            if self._kind == wire.DATA:
                turns -= 1

    def _step(self) -> bool:
        """Do one read. Says whether the connection is still good for another."""
        if len(self._head) < HEADER_SIZE:
            head = os.read(self.fd, HEADER_SIZE - len(self._head))
            if not head:
                self.close()
                return False
            self._head += head
            if len(self._head) < HEADER_SIZE:
                return True
            self._kind = self._head[0]
            self._left = int.from_bytes(self._head[1:], "big")
            return self._begin_frame()
        if self._kind == JSON:
            piece = os.read(self.fd, self._left)
            if not piece:
                self.close()
                return False
            self._request += piece
            self._left -= len(piece)
            if not self._left:
                self._begin_request()
            return True
        count = os.readv(self.fd, [_scratch[: self._left]])
        if not count:
            self.close()
            return False
        self._left -= count
        if not self._left:
            self._head = b""
        if self._body is not None:
            self._body.on_data(_scratch[:count])
        return True

    def _begin_frame(self) -> bool:
        kind, length = self._kind, self._left
        if self._body_open:
            if kind == END and not length:
                self._head = b""
                self._body_open = False
                if self._body is not None:
                    self._body.on_end()
                return True
            if kind == wire.DATA and 0 < length <= DATA_LIMIT:
                return True
        elif kind == JSON and 0 < length <= REQUEST_LIMIT:
            return True
        self._give_up(f"unexpected frame of kind {kind} and {length} bytes")
        return False

    def _begin_request(self) -> None:
        self._head = b""
        payload, self._request = self._request, bytearray()
        try:
            request = decode_json(payload)
        except ValueError as error:
            self._give_up(f"malformed request: {error}")
            return
        self._body_open = request.get("body") is True
        try:
            self._dispatch(self, request)
        except BlockingIOError as error:  # A fork that failed, not a read to try again.
            raise refuse_resources(error, "cannot serve the request") from error
        except OSError as error:
            raise Refusal("internal", f"the agent failed: {error}") from error

    def take_body(self, body: Body) -> None:
        """Pass the content that follows the request to a task."""
        self.task = self._body = body

    def _give_up(self, why: str) -> None:
        """Framing is lost: say so, and close."""
        task, self.task, self._body = self.task, None, None
        if task is not None:
            task.on_gone()
        self.fail(Refusal("invalid_argument", why))
        self._closing = True
        self.flush()
