"""The open requests to each sandbox, so that all of them drop the moment it ends.

A stream of a sandbox that was killed must never end cleanly: a client could not tell the cut from
the end of the output. In ASGI "drop" means to return without completing a response that was
started; the server then closes the connection without the last chunk. uvicorn reports that as an
error of the application, which `quiet_drops` silences.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import structlog
from starlette.types import Message, Receive, Send

from atoll.errors import AtollError, SandboxGone
from atoll.sandboxes.model import Sandbox

log = structlog.get_logger(__name__)


class Line:
    """One open request to a sandbox."""

    __slots__ = ("_send", "_task", "cut", "started")

    def __init__(self, task: asyncio.Task[object], send: Send) -> None:
        self._task = task
        self._send = send
        self.cut = False
        """Whether nothing more is to be said to the client."""
        self.started = False
        """Whether the client has seen the beginning of an answer."""

    def sever(self) -> None:
        """Stop the work for this request and let nothing more out of it."""
        if not self.cut:
            self.cut = True
            self._task.cancel()

    async def send(self, message: Message) -> None:
        """ASGI's `send`, deaf once the line is cut."""
        if self.cut:
            return
        self.started = True
        await self._send(message)

    async def watch(self, receive: Receive) -> None:
        """Sever the line when the client goes away. For after the request's body was read."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.sever()


class Lines:
    """All open requests, by sandbox."""

    def __init__(self) -> None:
        self._open: dict[Sandbox, set[Line]] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(
        self, sandbox: Sandbox, send: Send, work: Callable[[Line], Awaitable[None]]
    ) -> None:
        """Do the work of a request in the current task, until it is done or the line is cut.

        Raises `SandboxGone` when the sandbox ended before anything was answered, and any
        `AtollError` of the work's before that point; after it there is no way left to report one,
        and the stream is dropped. What the work raises after the cut is of no interest to anybody.
        """
        task = asyncio.current_task()
        assert task is not None
        line = Line(task, send)
        lines = self._open.get(sandbox)
        if lines is None:
            lines = self._watch(sandbox)
        lines.add(line)
        try:
            await work(line)
        except AtollError as error:
            if not line.cut:
                if not line.started:
                    raise
                log.info("stream.dropped", sandbox_id=sandbox.sandbox_id, reason=str(error))
        except BaseException:
            if not line.cut:
                raise
        finally:
            lines.discard(line)
        if line.cut:
            # The work may have ended before the cancellation reached it: let it arrive here.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if task.uncancel() > 0:
                raise asyncio.CancelledError  # somebody else wants the task to end, too
        if line.cut and not line.started and sandbox.ended.is_set():
            raise SandboxGone("the sandbox ended")

    def close(self) -> None:
        """Forget all lines, without cutting them."""
        for watcher in self._watchers:
            watcher.cancel()

    def _watch(self, sandbox: Sandbox) -> set[Line]:
        lines = self._open[sandbox] = set()
        watcher = asyncio.create_task(self._await_end(sandbox))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return lines

    async def _await_end(self, sandbox: Sandbox) -> None:
        await sandbox.ended.wait()
        for line in self._open.pop(sandbox):
            line.sever()


class _DropFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("ASGI callable returned without completing ")


def quiet_drops() -> None:
    """Keep uvicorn from reporting dropped streams and refused WebSockets as our errors."""
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(each, _DropFilter) for each in logger.filters):
        logger.addFilter(_DropFilter())
