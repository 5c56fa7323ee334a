"""How long a keystroke in a terminal takes to come back."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Callable, Iterator

from e2b import CommandExitException, PtySize, Sandbox
from e2b.sandbox_sync.commands.command_handle import CommandHandle

from bench.samples import interleave
from bench.servers import run_atoll
from bench.table import Row

_COUNT = 300
_PROGRAM = "stty raw -echo; printf ready; exec cat"
"""No echo by the kernel: the keystroke reaches a program, as an editor's does."""


class _Echo:
    """Types a character and waits for it, in a PTY of a sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._news = threading.Semaphore(0)
        self._ready = threading.Event()
        self._seen = bytearray()
        self.handle: CommandHandle = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        sandbox.pty.send_stdin(self.handle.pid, f" exec sh -c '{_PROGRAM}'\n".encode())
        self._ready.wait(10)

    def _read(self) -> None:
        def take(data: bytes) -> None:
            if self._ready.is_set():
                self._news.release()
                return
            self._seen += data
            if self._seen.endswith(b"ready"):
                self._ready.set()

        with contextlib.suppress(CommandExitException):  # Killed, in the end.
            self.handle.wait(on_pty=take)

    def type(self) -> None:
        self._sandbox.pty.send_stdin(self.handle.pid, b"x")
        if not self._news.acquire(timeout=10):
            raise TimeoutError("no echo")


@contextlib.contextmanager
def _local_echo() -> Iterator[Callable[[], None]]:
    """The same in a PTY of this machine."""
    master, slave = pty.openpty()
    command = ["sh", "-c", _PROGRAM]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, start_new_session=True)
    os.close(slave)
    seen = b""
    while not seen.endswith(b"ready"):
        seen += os.read(master, 1024)

    def act() -> None:
        os.write(master, b"x")
        os.read(master, 1)

    try:
        yield act
    finally:
        process.kill()
        process.wait()
        os.close(master)


def measure_terminals() -> list[Row]:
    """A keystroke through the SDK to a program and back, beside a PTY of this machine."""
    with (
        run_atoll(pool_size=1) as target,
        Sandbox.create(**target.options) as sandbox,
        _local_echo() as local_echo,
    ):
        echo = _Echo(sandbox)
        times = interleave({"atoll": echo.type, "local": local_echo}, _COUNT)
        sandbox.pty.kill(echo.handle.pid)
    atoll, local = times["atoll"], times["local"]
    return [
        Row(
            "PTY, keystroke to echo",
            str(atoll),
            f"a PTY of the host, no network {local}",
            atoll.p50 / local.p50,
        )
    ]
