"""Sessions: all that was started from one terminal and did not leave it."""

from __future__ import annotations

import os

from .signals import SIGKILL

_PASSES = 8
"""Rounds through the process table; whoever forks faster than that meets the limit on processes."""


def kill_session(leader: int) -> None:
    """Kill every process of a session. The jobs of a shell are groups of their own, so killing the
    shell's group would leave them; what has called setsid(2), as daemons do, lives on."""
    for _ in range(_PASSES):
        members = _list_members(leader)
        if not members:
            return
        for pid in members:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue


def _list_members(leader: int) -> list[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return []  # No /proc in this sandbox.
    members = []
    for name in names:
        if name.isdigit() and _read_session(name) == leader:
            members.append(int(name))
    return members


def _read_session(name: str) -> int:
    """The session of a process that is not dead yet, otherwise -1."""
    try:
        # What root has put in the place of /proc may be anything, but must not hold the agent up.
        fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            stat = os.read(fd, 4096)
        finally:
            os.close(fd)
        # The name before the last bracket may hold anything.
        state, _, _, session = stat.rpartition(b")")[2].split()[:4]
        return -1 if state in (b"Z", b"X") else int(session)
    except (OSError, ValueError):
        return -1
