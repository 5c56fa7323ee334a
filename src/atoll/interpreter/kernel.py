"""One Jupyter kernel: a process that keeps state and runs code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from jupyter_client import AsyncKernelClient, AsyncKernelManager

from .languages import Language

_START_SECONDS = 60.0
_STOP_SECONDS = 2.0
_LATE_SECONDS = 1.0
"""How long a mark is waited for: code may have replaced what it is made with."""

Message = dict[str, Any]


class KernelDied(Exception):
    """The kernel's process has ended; the message says how."""


class KernelUnavailable(Exception):
    """The kernel can't be started; the message says why."""


class Kernel:
    """A running kernel. One execution at a time: the context sees to that."""

    def __init__(
        self, language: Language, manager: AsyncKernelManager, client: AsyncKernelClient
    ) -> None:
        self._language = language
        self._manager = manager
        self._client = client
        self._current: tuple[set[str], asyncio.Queue[Message | None]] | None = None
        """Whose messages the execution under way wants, and where it takes them."""
        process = manager.provisioner.process
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self.died = asyncio.Event()
        """Set when the process has ended, whyever."""
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_death)
        self._readers = asyncio.gather(self._read(), self._discard_replies())

    # -- life --------------------------------------------------------------------------------

    @classmethod
    async def start(cls, language: Language, *, cwd: str, env: Mapping[str, str]) -> Kernel:
        """Start a kernel and wait until it answers. Raises `KernelUnavailable`."""
        manager = AsyncKernelManager(kernel_name=language.kernel, transport=language.transport)
        if language.transport == "ipc":
            # What jupyter_client chooses by itself is relative to a directory that we and the
            # kernel need not share. There the five sockets are, closed to other users.
            manager.ip = f"{tempfile.mkdtemp(prefix='kernel-')}/socket"
        try:
            await manager.start_kernel(cwd=cwd, env=dict(env))
        except (OSError, RuntimeError) as error:
            raise KernelUnavailable(
                f"the {language.name} kernel can't be started: {error}"
            ) from error
        client = manager.client()
        # No heartbeats (the process is watched instead) and no standard input (there is nobody
        # to type).
        client.start_channels(hb=False, stdin=False)
        try:
            # It goes through the reader's socket, so the reader starts afterwards.
            await client.wait_for_ready(timeout=_START_SECONDS)
        except (RuntimeError, TimeoutError) as error:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
            raise KernelUnavailable(f"the {language.name} kernel did not start: {error}") from error
        return cls(language, manager, client)

    async def stop(self) -> None:
        """End the process and what it left. Idempotent."""
        self._readers.cancel()
        self._forget_process()
        self._client.stop_channels()
        with contextlib.suppress(ProcessLookupError):
            # Together with what it started: each kernel leads a process group.
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(asyncio.CancelledError):
            await self._readers
        async with asyncio.timeout(_STOP_SECONDS):
            await self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_connection_file()

    def _on_death(self) -> None:
        self._forget_process()
        self.died.set()
        if self._current is not None:
            self._current[1].put_nowait(None)

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def describe_end(self) -> str:
        """How the process ended, in words."""
        status = self._process.poll()
        if status is None:
            return "it is running"
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
        """Run code and yield the messages that it publishes, until the kernel is idle again.

        Raises `KernelDied`. When the caller stops early the code runs on: `interrupt` it.
        """
        if self.died.is_set():
            raise KernelDied(self.describe_end())
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        request = self._client.execute(code, allow_stdin=False, stop_on_error=False)
        self._current = ({request}, queue)
        while True:
            message = await self._take(queue)
            if _is_idle(message):
                break
            if message["msg_type"] != "status":
                yield message
        try:
            if self._language.mark is not None:
                async for message in self._take_late(self._language.mark, queue):
                    yield message
        finally:
            self._current = None

    async def _take(self, queue: asyncio.Queue[Message | None]) -> Message:
        message = await queue.get()
        if message is None:
            raise KernelDied(self.describe_end())
        return message

    async def _take_late(
        self, mark: Callable[[str], str], queue: asyncio.Queue[Message | None]
    ) -> AsyncIterator[Message]:
        """What a kernel publishes after it has said that it is idle.

        It is made to publish a mark in each of the ways that it has. What comes before them is the
        execution's, though the kernel may take it for the mark's.
        """
        sign = f"mark-{uuid.uuid4().hex}"
        request = self._client.execute(mark(sign), silent=True, store_history=False)
        assert self._current is not None
        self._current[0].add(request)
        awaited = {"stream", "display_data"}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LATE_SECONDS) as patience:
                while awaited:
                    message = await self._take(queue)
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

    async def drain(self) -> None:
        """Wait until the execution that was given up is over. Raises `KernelDied`."""
        while self._current is not None:
            if _is_idle(await self._take(self._current[1])):
                self._current = None

    async def interrupt(self) -> None:
        """Stop what runs, as Ctrl-C would."""
        await self._manager.interrupt_kernel()

    async def _read(self) -> None:
        """Pass what the kernel publishes to the execution that it belongs to."""
        while True:
            message = await self._client.get_iopub_msg()
            if self._current is not None:
                requests, queue = self._current
                if message["parent_header"].get("msg_id") in requests:
                    queue.put_nowait(message)

    async def _discard_replies(self) -> None:
        """Keep the replies from piling up: all that matters is published as well."""
        while True:
            await self._client.get_shell_msg()


def _is_idle(message: Message) -> bool:
    if message["msg_type"] != "status":
        return False
    return bool(message["content"]["execution_state"] == "idle")
