"""Whose a state directory is: that of one server at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from atoll.errors import HostError


class StateLock:
    """A lock on a state directory, which the kernel takes back when the server dies."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._descriptor: int | None = None

    def take(self) -> None:
        """Make the directory this server's own, if it is not yet. Raises `HostError`."""
        if self._descriptor is not None:
            return
        directory = self._state_dir / "sandboxes"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HostError(
                f"another server uses {self._state_dir}",
                remedy="stop it, or use another data directory",
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another server have it. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
