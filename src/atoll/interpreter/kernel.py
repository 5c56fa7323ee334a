"""One Jupyter kernel: a process that keeps state and runs code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import NoSuchKernel

from .languages import Language

_START_SECONDS = 60.0
_STOP_SECONDS = 2.0
_REST_SECONDS = 0.05
"""How long nothing may come from a kernel that has died until all is read that it published."""
_LATE_SECONDS = 1.0
"""How long a mark or a reply is waited for: code may have replaced what they are made with."""

Message = dict[str, Any]


class KernelDied(Exception):
    """The kernel's process has ended; the message says how."""


class KernelUnavailable(Exception):
    """The kernel can't be started; the message says why."""


class _Execution:
    """The execution under way, and what has come of it."""

    def __init__(self, request: str) -> None:
        self.requests = {request}
        """Whose messages are wanted."""
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue()


class Kernel:
    """A running kernel. One execution at a time: the context sees to that."""

    def __init__(
        self, language: Language, manager: AsyncKernelManager, client: AsyncKernelClient
    ) -> None:
        self._language = language
        self._manager = manager
        self._client = client
        self._current: _Execution | None = None
        process = manager.provisioner.process
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._ending: asyncio.Task[None] | None = None
        self.died = asyncio.Event()
        """Set when the process has ended, whyever, or was told to."""
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_death)
        self._reader = asyncio.create_task(self._read())

    # -- life --------------------------------------------------------------------------------

    @classmethod
    async def start(cls, language: Language, *, cwd: str, env: Mapping[str, str]) -> Kernel:
        """Start a kernel and wait until it answers. Raises `KernelUnavailable`."""
        manager = AsyncKernelManager(kernel_name=language.kernel, transport=language.transport)
        if language.transport == "ipc":
            # What jupyter_client chooses by itself is relative to a directory that we and the
            # kernel need not share. There the five sockets are, closed to other users.
            manager.ip = f"{tempfile.mkdtemp(prefix='kernel-')}/socket"
        client: AsyncKernelClient | None = None
        try:
            await manager.start_kernel(cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL)
            client = manager.client()
            # What a kernel publishes faster than we read waits here: it would throw it away, and
            # with it perhaps the message that says that the execution is over.
            client.context.rcvhwm = 0
            # No heartbeats (the process is watched instead) and no standard input (there is
            # nobody to type).
            client.start_channels(hb=False, stdin=False)
            # It goes through the reader's socket, so the reader starts afterwards.
            await client.wait_for_ready(timeout=_START_SECONDS)
            return cls(language, manager, client)
        except BaseException as error:  # who asked may have gone: nothing of it may stay
            await asyncio.shield(asyncio.create_task(_end(manager, client)))
            if isinstance(error, (OSError, RuntimeError, NoSuchKernel)):
                raise KernelUnavailable(
                    f"the {language.name} kernel can't be started: {error}"
                ) from error
            raise

    async def stop(self) -> None:
        """End the process and what it left; whoever waits for output sees it die. Idempotent."""
        if self._ending is None:
            self._forget_process()
            self.died.set()
            self._reader.cancel()
            self._announce_end()
            self._ending = asyncio.create_task(_end(self._manager, self._client))
        await asyncio.shield(self._ending)

    def _on_death(self) -> None:
        self._forget_process()
        self.died.set()
        self._reader.cancel()
        self._reader = asyncio.create_task(self._read_rest())

    def _announce_end(self) -> None:
        if self._current is not None:
            self._current.queue.put_nowait(None)

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def describe_end(self) -> str:
        """How the process ended, in words."""
        status = self._process.poll()
        if status is None or self._ending is not None:
            return "it was stopped"
        if status < 0:
            name = signal.Signals(-status).name
            hint = ", which is what the kernel does when memory runs out" if status == -9 else ""
            return f"it was killed by {name}{hint}"
        return f"it exited with status {status}"

    # -- execution -----------------------------------------------------------------------------

    def run_silently(self, code: str) -> None:
        """Run code before whatever is run next, without waiting and without showing anything."""
        self._client.execute(code, silent=True, store_history=False, allow_stdin=False)

    async def execute(self, code: str) -> AsyncIterator[Message]:
        """Run code and yield the messages that it publishes until the kernel is idle again; the
        last is its reply, which tells of failures that some kernels don't publish.

        Raises `KernelDied`. When the caller stops early the code runs on: `interrupt` it.
        """
        if self.died.is_set():
            raise KernelDied(self.describe_end())
        request = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        current = self._current = _Execution(request)
        while True:
            message = await self._take(current)
            if _is_idle(message):
                break
            if message["msg_type"] != "status":
                yield message
        try:
            if self._language.mark is not None:
                async for message in self._take_late(self._language.mark, current):
                    yield message
            reply = await self._find_reply(request)
            if reply is not None:
                yield reply
        finally:
            self._current = None

    async def _take(self, current: _Execution) -> Message:
        message = await current.queue.get()
        if message is None:
            raise KernelDied(self.describe_end())
        return message

    async def _take_late(
        self, mark: Callable[[str], str], current: _Execution
    ) -> AsyncIterator[Message]:
        """What a kernel publishes after it has said that it is idle.

        It is made to publish a mark in each of the ways that it has. What comes before them is the
        execution's, though the kernel may take it for the mark's.
        """
        sign = f"mark-{uuid.uuid4().hex}"
        request = self._client.execute(mark(sign), silent=True, store_history=False)
        current.requests.add(request)
        awaited = {"stream", "display_data"}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LATE_SECONDS) as patience:
                while awaited:
                    message = await self._take(current)
                    kind, content = message["msg_type"], message["content"]
                    if kind == "stream" and sign in content["text"]:
                        awaited.discard(kind)
                        content["text"] = content["text"].partition(sign)[0]
                        if content["text"]:
                            yield message
                    elif kind == "display_data" and sign in content["data"]:
                        awaited.discard(kind)
                    elif kind in ("stream", "display_data", "execute_result"):
                        yield message
                    patience.reschedule(asyncio.get_running_loop().time() + _LATE_SECONDS)

    async def _find_reply(self, request: str) -> Message | None:
        # Replies are only looked for here, when they should be there: a task that waited for them
        # would sleep on when they come during a send, which takes the socket's wake-up with it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LATE_SECONDS):
                while True:
                    with contextlib.suppress(Empty, ValueError):
                        message: Message = await self._client.get_shell_msg(timeout=_LATE_SECONDS)
                        if message["parent_header"].get("msg_id") == request:
                            return message
        return None

    async def drain(self) -> None:
        """Wait until the execution that was given up is over. Raises `KernelDied`."""
        while self._current is not None:
            if _is_idle(await self._take(self._current)):
                self._current = None

    async def interrupt(self) -> None:
        """Stop what runs, as Ctrl-C would."""
        await self._manager.interrupt_kernel()
        # Code that awaits something notices at the next turn of its event loop: this gives it one.
        self._client.kernel_info()

    async def _read(self) -> None:
        """Pass what the kernel publishes to the execution that it belongs to."""
        while True:
            await self._read_one(timeout=None)

    async def _read_rest(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                await self._read_one(timeout=_REST_SECONDS)
        self._announce_end()

    async def _read_one(self, timeout: float | None) -> None:
        try:
            message = await self._client.get_iopub_msg(timeout=timeout)
        except ValueError:  # code can publish what is no message
            return
        current = self._current
        if current is not None and message["parent_header"].get("msg_id") in current.requests:
            current.queue.put_nowait(message)


async def _end(manager: AsyncKernelManager, client: AsyncKernelClient | None) -> None:
    """End a kernel's process, with what it started, and remove what it left."""
    if client is not None:
        client.stop_channels()
    if manager.has_kernel:
        with contextlib.suppress(ProcessLookupError):
            # Each kernel leads a process group.
            os.killpg(manager.provisioner.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_SECONDS):
            await manager.shutdown_kernel(now=True)
    manager.cleanup_connection_file()
    if manager.transport == "ipc":
        shutil.rmtree(Path(manager.ip).parent, ignore_errors=True)


def _is_idle(message: Message) -> bool:
    if message["msg_type"] != "status":
        return False
    return bool(message["content"]["execution_state"] == "idle")
