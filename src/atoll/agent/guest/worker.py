"""Work in a forked child, for what may take long."""

from __future__ import annotations

import os

from . import wire
from .refusal import Refusal
from .signals import set_wakeup_fd
from .users import User, become

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable

    from .loop import Loop


class Sender:
    """The worker's end of a connection: plain blocking writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, data: bytes) -> None:
        """Write whole frames. Raises `OSError` when the host has gone."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def serve_as_worker(
    loop: Loop, fd: int, user: User, work: Callable[[Sender], dict[str, object]]
) -> None:
    """Be the worker. Does not return."""
    code = 1
    try:
        set_wakeup_fd(-1)
        loop.detach()
        # Copies of other connections and of pipes must not outlive their originals.
        os.closerange(3, fd)
        os.closerange(fd + 1, 2**20)
        os.set_blocking(fd, True)
        become(user)
        sender = Sender(fd)
        try:
            reply: dict[str, object] = {"ok": work(sender)}
        except Refusal as refusal:
            reply = refusal.reply()
        except (OSError, MemoryError, RecursionError) as error:
            reply = Refusal("internal", f"the agent failed: {error!r}").reply()
        sender.send(wire.message(reply))
        code = 0
    finally:
        os._exit(code)


class killed_first:
    """In a block: let the kernel, when memory runs out, take the children made there before the
    agent. They inherit the score that the agent has meanwhile; lowering it again to what it was
    needs no privilege."""

    _file = -1
    _own = b"0"

    @classmethod
    def prepare(cls) -> None:
        """Open the score of this process, once."""
        try:
            cls._file = os.open("/proc/self/oom_score_adj", os.O_RDWR)
            cls._own = os.pread(cls._file, 16, 0)
        except OSError:
            cls._file = -1  # No /proc in this sandbox.

    def __enter__(self) -> None:
        self._write(b"500")

    def __exit__(self, *_: object) -> None:
        self._write(self._own)

    def _write(self, score: bytes) -> None:
        if self._file >= 0:
            try:
                os.pwrite(self._file, score, 0)
            except OSError:
                return
