"""One Jupyter kernel: a process that keeps state and runs code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

from jupyter_client import AsyncKernelClient, AsyncKernelManager

from .languages import Language

_START_SECONDS = 60.0
_STOP_SECONDS = 2.0

Message = dict[str, Any]


class KernelDied(Exception):
    """The kernel's process has ended; the message says how."""


class KernelUnavailable(Exception):
    """The kernel can't be started; the message says why."""


class Kernel:
    """A running kernel. One execution at a time: the context sees to that."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self._manager = manager
        self._client = client
        self._current: tuple[str, asyncio.Queue[Message | None]] | None = None
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
        return cls(manager, client)

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
        self._current = (request, queue)
        while True:
            message = await queue.get()
            if message is None:
                raise KernelDied(self.describe_end())
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    self._current = None
                    return
                continue
            yield message

    async def drain(self) -> None:
        """Wait until the execution that was given up is over. Raises `KernelDied`."""
        while self._current is not None:
            message = await self._current[1].get()
            if message is None:
                raise KernelDied(self.describe_end())
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                self._current = None

    async def interrupt(self) -> None:
        """Stop what runs, as Ctrl-C would."""
        await self._manager.interrupt_kernel()

    async def _read(self) -> None:
        """Pass what the kernel publishes to the execution that it belongs to."""
        while True:
            message = await self._client.get_iopub_msg()
            if self._current is not None:
                request, queue = self._current
                if message["parent_header"].get("msg_id") == request:
                    queue.put_nowait(message)

    async def _discard_replies(self) -> None:
        """Keep the replies from piling up: all that matters is published as well."""
        while True:
            await self._client.get_shell_msg()
