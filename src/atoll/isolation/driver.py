"""How a sandbox runs on this host: the contract that every driver keeps.

A driver knows how to make an isolated place with the agent running in it, how to reach into it, and
how to remove it without trace. It knows nothing of templates' names, teams, deadlines or HTTP.
`tests/conformance/` holds one suite that every driver passes unchanged.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resources:
    """What one sandbox may use at most. All of it is enforced by the kernel."""

    cpu_count: int = 2
    memory_mb: int = 1024
    """MiB of memory, page cache and tmpfs included."""
    disk_mb: int = 10240
    """MiB that may be written on top of the template."""
    max_processes: int = 1024
    """Processes and threads together."""


@dataclass(frozen=True, slots=True)
class Egress:
    """What a sandbox may reach outside itself.

    `allow` and `deny` are IPv4 addresses or networks in CIDR form; `allow` wins over `deny`, as it
    does on E2B. Neither opens what the operator's own policy keeps shut (private ranges, the
    metadata address, the host, other sandboxes).
    """

    internet: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        """Whether the driver's standing rules already say all of it."""
        return self.internet and not self.allow and not self.deny


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume in a sandbox."""

    volume_id: str
    path: str
    """The absolute path of the directory to mount it at, which is made where it is missing."""


@dataclass(frozen=True, slots=True)
class VolumeRoot:
    """The root directory of a volume, opened."""

    descriptor: int
    """Whoever holds it keeps the volume in use; closing it may wait for the disk."""
    id_base: int
    """What sandboxes call user or group 0 has this number in the volume, and so on upwards."""
    id_count: int


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """All that a driver needs to know to make one sandbox."""

    sandbox_id: str
    """Lower-case letters and digits, at most 32."""
    layers: tuple[Path, ...]
    """Read-only root file system directories, the topmost first, owned in the driver's id range."""
    resources: Resources = field(default_factory=Resources)
    hostname: str = "e2b.local"
    files: Mapping[str, str] = field(default_factory=dict)
    """Small text files, by absolute path, that the agent writes as root (mode 0644) before the
    sandbox is handed out."""
    volumes: tuple[VolumeMount, ...] = ()


@dataclass(slots=True)
class Instance:
    """A running sandbox, as its driver sees it."""

    sandbox_id: str
    pid: int
    """The host's number of the sandbox's first process."""
    address: str
    """The sandbox's IPv4 address."""
    exited: asyncio.Future[str]
    """Done as soon as the sandbox has ended by itself or was destroyed; the result says why in a
    word: `exited`, `oom` or `destroyed`. `oom` means that processes were killed for lack of memory
    since the last call of `usage`, or ever without one: the kernel does not tell whether that was
    why the first process ended."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses now."""

    cpu_seconds: float
    """Processor time since the start, all cores together."""
    memory_bytes: int
    """Memory without reclaimable page cache."""
    cache_bytes: int
    """Page cache."""
    memory_limit_bytes: int
    processes: int
    disk_used_bytes: int = 0
    """Of its root file system, as `df` says inside."""
    disk_total_bytes: int = 0


class Driver(ABC):
    """Makes, reaches and removes sandboxes. One object per server; all methods are coroutine-safe.

    The promises, which the conformance suite tests:

    * What `create` returns is ready: the agent answers, the network is up, the limits hold.
    * `create` either returns a running instance or raises and leaves nothing behind.
    * Sandboxes outlive the process that made them. A new driver object over the same state
      directory finds them by `list` and takes them over by `adopt`.
    * `destroy` works from every state (running, half-made, dead, unknown) and is idempotent: when
      it returns no process, mount, control group, interface, rule or file of the sandbox is left.
    * Nothing that a sandbox does can make a method touch a file of the host outside the driver's
      own state directory.
    * A volume outlives the sandboxes that it is mounted in, and the driver. All that use it at one
      time see the same files. It never holds more than its size.
    """

    @abstractmethod
    async def start(self) -> None:
        """Set up what all sandboxes share on this host. Idempotent; repairs what a crash left.

        Raises `HostError` that names what the machine lacks and the remedy.
        """

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> Instance:
        """Run a sandbox and return when its agent answers.

        Raises `HostError` when the machine is the cause and `Overloaded` when it is out of room;
        `NotFound` for a volume that is not there, `InvalidInput` for a path that is no place for
        one: inside another's, at what the sandbox needs itself, or what is no directory.
        """

    @abstractmethod
    async def adopt(self, sandbox_id: str) -> Instance | None:
        """Take over a sandbox that an earlier server process made.

        Returns None when it is not running any more, or was never finished; the caller then
        destroys it.
        """

    @abstractmethod
    async def destroy(self, sandbox_id: str) -> None:
        """Kill everything in the sandbox and remove all traces of it. Idempotent."""

    @abstractmethod
    async def list(self) -> Collection[str]:
        """Ids of all sandboxes of which anything is on this host, half-made and dead included."""

    @abstractmethod
    async def dial_agent(self, instance: Instance) -> socket.socket:
        """Open a new connection to the agent (non-blocking socket).

        Raises `SandboxGone` when the sandbox has ended.
        """

    @abstractmethod
    async def dial(self, instance: Instance, port: int) -> socket.socket:
        """Open a TCP connection to a port inside the sandbox (non-blocking socket).

        Services that listen only on 127.0.0.1 or ::1 in the sandbox are reached too. Raises
        `PortClosed` when nothing listens, `SandboxGone` when the sandbox has ended.
        """

    @abstractmethod
    async def set_egress(self, instance: Instance, egress: Egress) -> None:
        """Apply a policy; it holds for the very next packet.

        Raises `InvalidInput` for a bad CIDR.
        """

    @abstractmethod
    async def save_layer(self, instance: Instance, directory: Path) -> None:
        """Write what the sandbox has changed since its start as a layer for other sandboxes.

        `directory` is made and must not exist. Quiet the sandbox first: of what is being written
        meanwhile, any part may be in the layer. Raises `SandboxGone`, `HostError`.
        """

    @abstractmethod
    async def usage(self, instance: Instance) -> Usage:
        """Measure. Raises `SandboxGone` when the sandbox has ended."""

    @abstractmethod
    async def create_volume(self, volume_id: str, size_mb: int) -> None:
        """Make an empty volume of `size_mb` MiB, what the file system needs for itself included.

        Its root belongs to user 1000 of the sandboxes and is open to all. Raises `HostError`, or
        `Conflict` when there is one of that id, and leaves nothing.
        """

    @abstractmethod
    async def open_volume(self, volume_id: str) -> VolumeRoot:
        """Open a volume for the host. The caller closes it; raises `NotFound`, `HostError`."""

    @abstractmethod
    async def remove_volume(self, volume_id: str) -> None:
        """Remove a volume with all that is in it. Idempotent; raises `Conflict` when in use."""

    @abstractmethod
    async def stop(self) -> None:
        """Let go of the host without touching running sandboxes. The object is not used again."""

    @abstractmethod
    async def purge(self) -> None:
        """Destroy every sandbox and remove what `start` set up. Volumes stay."""
