"""Control groups, whichever of the three layouts the host has.

Version 1 has one tree of directories per controller, version 2 one tree for all, and the hybrid
layout both, the second without controllers. The runtime makes a sandbox's directories in all of
them; here they are read, killed and removed. What the files mean: the kernel's documentation,
`admin-guide/cgroup-v1` and `admin-guide/cgroup-v2.rst`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import HostError, SandboxGone
from atoll.isolation.driver import Usage

NEEDED = ("cpu", "memory", "pids")
"""Controllers without which the limits of a sandbox cannot be kept."""

_MAX_LIMIT = 1 << 62  # what "no limit" is about in version 1
_POLL_SECONDS = 0.001
_MIN_TCP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of control groups."""

    version: int
    mount: Path
    controllers: frozenset[str]


class ControlGroups:
    """The control groups of the sandboxes of one server: children of `/<parent>` everywhere."""

    def __init__(self, parent: str, hierarchies: tuple[Hierarchy, ...]) -> None:
        self._parent = parent
        self.hierarchies = hierarchies

    def path(self, name: str) -> str:
        """The path of a sandbox's group, below the root of each hierarchy."""
        return f"/{self._parent}/{name}"

    @property
    def missing(self) -> list[str]:
        """Needed controllers that no hierarchy has."""
        have = set().union(*(hierarchy.controllers for hierarchy in self.hierarchies))
        # Version 2 accounts processor time without a controller of its own.
        return [name for name in NEEDED if name not in have]

    @property
    def counts_swap(self) -> bool:
        """Whether the kernel can limit swap."""
        memory = self._find("memory")
        if memory.version == 1:
            return (memory.mount / "memory.memsw.limit_in_bytes").exists()
        # The root group has no limits; a group below it shows whether the file is there.
        return any(memory.mount.glob("*/memory.swap.max"))

    def names(self) -> set[str]:
        """The names of all groups of sandboxes."""
        found: set[str] = set()
        for hierarchy in self.hierarchies:
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(hierarchy.mount / self._parent):
                    if entry.is_dir(follow_symlinks=False):
                        found.add(entry.name)
        return found

    def has(self, name: str) -> bool:
        """Whether anything is left of a sandbox's group."""
        return bool(self._directories(name))

    def holds(self, name: str, pid: int) -> bool:
        """Whether a process is in a sandbox's group."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return False
        return any(line.split(":", 2)[2] == self.path(name) for line in lines)

    def limit_tcp(self, name: str, memory_bytes: int) -> None:
        """Limit what TCP connections of a sandbox keep in the kernel, given its memory limit.

        Version 2 counts that as memory; version 1 keeps an account of its own, without a limit
        until one is set, that counts only sockets made after that.
        """
        memory = self._find("memory")
        if memory.version == 1:
            file = memory.mount / self._parent / name / "memory.kmem.tcp.limit_in_bytes"
            with contextlib.suppress(FileNotFoundError):  # a kernel may be built without
                file.write_text(str(max(_MIN_TCP_BYTES, memory_bytes // 4)))

    def kill_at_once(self, name: str) -> None:
        """Kill all processes of a group where the kernel does so in one step; does not block."""
        for directory in self._directories(name):
            _kill_all(directory)

    def kill(self, name: str) -> bool:
        """Kill all processes of a group, frozen ones too; True when there were none."""
        pids: set[int] = set()
        empty = True
        for directory in self._directories(name):
            found: set[int] = set()
            with contextlib.suppress(OSError):
                found = {int(line) for line in (directory / "cgroup.procs").read_text().split()}
            empty = empty and not found
            if not _kill_all(directory):
                pids |= found
        for pid in pids:
            self._kill_member(name, pid)
        for directory in self._directories(name):
            # A frozen process dies only after it is thawed.
            for file, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
                with contextlib.suppress(OSError):
                    (directory / file).write_text(value)
        return empty

    def _kill_member(self, name: str, pid: int) -> None:
        """Kill a process, unless its number means another one by now."""
        with contextlib.suppress(OSError):
            process = os.pidfd_open(pid)
            try:
                if self.holds(name, pid):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)

    def remove(self, name: str, timeout: float = 5.0) -> None:
        """Kill what is in a group and remove it. Raises `HostError` when it stays."""
        deadline = time.monotonic() + timeout
        while True:
            empty = self.kill(name)
            if empty and all(_remove_tree(path) for path in self._directories(name)):
                return
            if time.monotonic() > deadline:
                raise HostError(
                    f"the control group {self.path(name)} cannot be removed",
                    remedy="a process in it does not die; look for state D in ps",
                )
            time.sleep(_POLL_SECONDS)

    def remove_parent(self) -> None:
        """Remove the group that holds all sandboxes' groups, if nothing is in it."""
        for hierarchy in self.hierarchies:
            with contextlib.suppress(OSError):
                (hierarchy.mount / self._parent).rmdir()

    def out_of_memory_kills(self, name: str) -> int:
        """How many processes the kernel has killed because the memory limit was reached."""
        memory = self._find("memory")
        file = "memory.oom_control" if memory.version == 1 else "memory.events"
        try:
            return _table(memory.mount / self._parent / name / file).get("oom_kill", 0)
        except OSError:
            return 0

    def usage(self, name: str) -> Usage:
        """Measure. Raises `SandboxGone` when the group does not exist."""
        try:
            memory = self._find("memory")
            measure = _usage_1 if memory.version == 1 else _usage_2
            return measure(*(self._find(kind).mount / self._parent / name for kind in _READ_FROM))
        except FileNotFoundError:
            raise SandboxGone(f"sandbox {name} has ended") from None

    def _directories(self, name: str) -> list[Path]:
        paths = (hierarchy.mount / self._parent / name for hierarchy in self.hierarchies)
        return [path for path in paths if path.is_dir()]

    def _find(self, controller: str) -> Hierarchy:
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy
        raise HostError(f"the kernel offers no {controller!r} control group controller")


_READ_FROM = ("memory", "cpuacct", "pids")


def find_hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[Hierarchy, ...]:
    """All mounted control group trees."""
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        mount = Path(left.split()[4])
        if kind == "cgroup2":
            controllers = set((mount / "cgroup.controllers").read_text().split())
            found[mount] = Hierarchy(2, mount, frozenset(controllers | {"cpuacct"}))
        elif kind == "cgroup":
            found[mount] = Hierarchy(1, mount, frozenset(options.split(",")))
    # Version 1 first: where both are mounted it has the controllers, and `cpuacct`, which here
    # stands for the account of processor time that every version 2 group keeps.
    return tuple(sorted(found.values(), key=lambda hierarchy: hierarchy.version))


def _usage_1(memory: Path, accounting: Path, pids: Path) -> Usage:
    stat = _table(memory / "memory.stat")
    cache = stat["total_active_file"] + stat["total_inactive_file"]
    limit = _number(memory / "memory.limit_in_bytes")
    return Usage(
        cpu_seconds=_number(accounting / "cpuacct.usage") / 1e9,
        memory_bytes=max(0, _number(memory / "memory.usage_in_bytes") - cache),
        cache_bytes=cache,
        memory_limit_bytes=limit if limit < _MAX_LIMIT else 0,
        processes=_number(pids / "pids.current"),
    )


def _usage_2(memory: Path, accounting: Path, pids: Path) -> Usage:
    stat = _table(memory / "memory.stat")
    cache = stat["active_file"] + stat["inactive_file"]
    limit = (memory / "memory.max").read_text().strip()
    return Usage(
        cpu_seconds=_table(accounting / "cpu.stat")["usage_usec"] / 1e6,
        memory_bytes=max(0, _number(memory / "memory.current") - cache),
        cache_bytes=cache,
        memory_limit_bytes=int(limit) if limit != "max" else 0,
        processes=_number(pids / "pids.current"),
    )


def _number(path: Path) -> int:
    return int(path.read_text())


def _table(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2}


def _kill_all(group: Path) -> bool:
    """Have the kernel kill a group; False where it does not do that (version 1, before 5.14)."""
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError:
        return False
    return True


def _remove_tree(path: Path) -> bool:
    """Remove a group and the groups below it; False when something is still in one of them."""
    try:
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False) and not _remove_tree(Path(entry.path)):
                return False
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
