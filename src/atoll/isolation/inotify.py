"""The host's limits of inotify, which sandboxes share with root of the host.

The kernel counts instances and watches per user, and adds what is used in a user namespace to the
account of the user who made it: here root of the host. By default that user may have 128 instances,
so one sandbox could leave the host and all others without. Every instance and watch is also charged
to the memory limit of the sandbox that has it; so the counters are set out of the way, and memory
is what bounds them.
"""

from __future__ import annotations

from pathlib import Path

from atoll.errors import HostError

_DIRECTORY = Path("/proc/sys/fs/inotify")
# Measured on Linux 6.18: an instance takes 1.4 KB of a sandbox's memory, a watch 88 bytes. Either
# number would take 23 GB.
_WANTED = {"max_user_instances": 1 << 24, "max_user_watches": 1 << 28}


def low_limits(directory: Path = _DIRECTORY) -> dict[Path, int]:
    """The files of limits that are too low, with what they should be."""
    files = {directory / name: wanted for name, wanted in _WANTED.items()}
    # Where there are no such files the kernel has no inotify, for sandboxes neither.
    return {
        file: wanted
        for file, wanted in files.items()
        if file.exists() and int(file.read_text()) < wanted
    }


def raise_limits(directory: Path = _DIRECTORY) -> None:
    """Raise what is too low, for good: other servers on the host count on it, too.

    Raises `HostError`.
    """
    for file, wanted in low_limits(directory).items():
        try:
            file.write_text(str(wanted))
        except OSError as error:
            raise HostError(
                f"cannot raise {file}: {error.strerror}",
                remedy=f"run on the host: sysctl -w fs.inotify.{file.name}={wanted}",
            ) from error
