"""What is in a volume, and where in a sandbox it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EntryKind(StrEnum):
    """What an entry is. E2B's names."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    UNKNOWN = "unknown"
    """A FIFO or a socket."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a volume. A symlink is itself, not what it leads to."""

    path: str
    """Absolute, from the volume's root."""
    kind: EntryKind
    size: int
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    accessed: float
    modified: float
    changed: float
    """Times are seconds since the epoch."""
    target: str | None = None
    """Where a symlink points to, as it is written in it."""

    @property
    def name(self) -> str:
        """The last part of the path; of the root, `/`."""
        return self.path.rpartition("/")[2] or "/"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a client wants a path to have; None is left as it is, or to the default."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class NamedMount:
    """A volume in a sandbox, by the volume's name."""

    name: str
    path: str
