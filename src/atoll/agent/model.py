"""What the agent's operations take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EntryType = Literal["file", "directory", "symlink", "other"]
EventType = Literal["create", "write", "remove", "rename", "chmod"]


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """Who answers in the sandbox."""

    version: int
    """Of the protocol, see `atoll.agent.guest.wire.PROTOCOL`."""
    pid: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is at a path in a sandbox. Every text in it was chosen by the sandbox."""

    name: str
    type: EntryType
    """Of what a symlink leads to; `symlink` only when it leads nowhere."""
    path: str
    size: int
    """Bytes; of a symlink itself, not of its target."""
    mode: int
    """The nine permission bits; of a symlink's target."""
    permissions: str
    """As Go writes a file mode, for instance `-rw-r--r--`; of a symlink itself."""
    owner: str
    group: str
    modified_ns: int
    """Nanoseconds since 1970."""
    symlink_target: str | None
    """The absolute path that a symlink leads to in the end."""
    is_symlink: bool
    metadata: Mapping[str, str]
    """The extended attributes named `user.e2b.*`, without that prefix."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """Something that happened in a watched directory."""

    name: str
    """Where, as a path from the watched directory; `.` for that itself."""
    type: EventType
    """`rename` is said of the old name; the new one gets a `create`."""
    entry: Entry | None
    """What is there, if that was asked for and something is."""


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What to watch."""

    path: str
    recursive: bool = False
    include_entry: bool = False
    """Whether events describe what is at their path."""
    allow_network_mounts: bool = False
    """Whether to watch where another machine may make changes that nobody here hears of."""


@dataclass(frozen=True, slots=True)
class PtySize:
    """The size of a terminal, in characters."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """What to run."""

    cmd: str
    """A path, or a name to look for in the PATH of the process."""
    args: tuple[str, ...] = ()
    envs: Mapping[str, str] = field(default_factory=dict)
    """On top of PATH, HOME, USER and LOGNAME."""
    cwd: str | None = None
    """None is the user's home, or `/` where that does not exist."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that runs in a sandbox."""

    pid: int
    config: ProcessConfig
    tag: str | None


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a process wrote, wherever it happened to be cut."""

    kind: Literal["stdout", "stderr", "pty"]
    data: bytes


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended, in the words of E2B's envd."""

    exit_code: int
    """-1 when a signal ended it."""
    exited: bool
    status: str
    """`exit status 3`, `signal: killed`."""
    error: str | None
    """The status again, unless the process succeeded."""
