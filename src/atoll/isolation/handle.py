"""A hold on a running sandbox that does not slip to something else when numbers are reused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Callable

from atoll.errors import SandboxGone
from atoll.isolation.driver import Instance
from atoll.isolation.records import Record, boot_id, start_time


class Grip:
    """Descriptors of a sandbox's first process and of its network namespace."""

    def __init__(self, record: Record) -> None:
        """Raises OSError when the process that the record names does not run any more."""
        self.pid = record.pid
        if record.boot != boot_id():
            raise ProcessLookupError(record.pid)
        self._process = os.pidfd_open(record.pid)
        self.netns = -1
        try:
            if start_time(record.pid) != record.started:
                raise ProcessLookupError(record.pid)
            path = f"/proc/{record.pid}/ns/net"
            self.netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            # Alive still: so the number has meant the same process all the time.
            if not self.alive:
                raise ProcessLookupError(record.pid)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the first process, and with it the sandbox, still runs."""
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return not poll.poll(0)

    def fileno(self) -> int:
        """A descriptor that gets readable when the sandbox ends."""
        return self._process

    def kill(self) -> None:
        """Kill the first process; the kernel then kills all others of the sandbox."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def reap(self) -> None:
        """Collect a dead process, should it have become a child of this one (a first process)."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._process, os.WEXITED | os.WNOHANG)

    def close(self) -> None:
        """Let go."""
        for descriptor in (self._process, self.netns):
            if descriptor >= 0:
                os.close(descriptor)
        self._process = self.netns = -1


class Handle:
    """What a driver holds for each instance: the grip, and a watch for the end."""

    def __init__(self, record: Record, grip: Grip, why_ended: Callable[[str], str]) -> None:
        """`why_ended` says, once the sandbox has ended by itself, for what reason."""
        self._loop = asyncio.get_running_loop()
        self._grip: Grip | None = grip
        self._why_ended = why_ended
        self.record = record
        self.instance = Instance(
            sandbox_id=record.sandbox_id,
            pid=record.pid,
            address=record.address,
            exited=self._loop.create_future(),
        )
        self._loop.add_reader(grip.fileno(), self._end)

    @property
    def netns(self) -> int:
        """The descriptor of the network namespace. Raises `SandboxGone` when it has ended."""
        if self._grip is None or not self._grip.alive:
            raise SandboxGone(f"sandbox {self.record.sandbox_id} has ended")
        return self._grip.netns

    def measure_root(self) -> tuple[int, int]:
        """Bytes used and in all of the root file system. Raises `SandboxGone` when it has ended.

        `/proc/<pid>/root` leads the kernel straight there: no name inside is looked up, no process
        inside is asked, and the counts are in memory.
        """
        try:
            state = os.statvfs(f"/proc/{self.record.pid}/root")
        except OSError:
            state = None
        _ = self.netns  # only if it lives still, the number has meant it all the time
        if state is None:
            raise SandboxGone(f"sandbox {self.record.sandbox_id} has ended")
        total = state.f_blocks * state.f_frsize
        return total - state.f_bfree * state.f_frsize, total

    def kill(self) -> None:
        """Kill the sandbox, if it still runs. Does not wait for the end."""
        if self._grip is not None:
            self._grip.kill()

    def release(self, reason: str | None = None) -> None:
        """Let go of the sandbox; with a reason, the instance counts as ended by it."""
        if self._grip is not None:
            self._loop.remove_reader(self._grip.fileno())
            self._grip.close()
            self._grip = None
        if reason is not None and not self.instance.exited.done():
            self.instance.exited.set_result(reason)

    def _end(self) -> None:
        if self._grip is not None:
            self._grip.reap()
        # The grip goes too: its hold on the network namespace would keep the link alive.
        self.release(self._why_ended(self.record.sandbox_id))
