"""What a sandbox is."""

from __future__ import annotations

import asyncio
import secrets
import socket
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from atoll.agent.client import AgentClient
from atoll.isolation.driver import Driver, Egress, Instance, Usage
from atoll.sandboxes.logbook import Logbook
from atoll.templates.model import Template
from atoll.volumes.model import NamedMount

_ID_ALPHABET = string.ascii_lowercase + string.digits


def new_sandbox_id() -> str:
    """Make an id: 20 characters that fit in a DNS label, 103 random bits, so not guessable."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(20))


class SandboxState(StrEnum):
    """Where a sandbox is in its life."""

    POOLED = "pooled"
    RUNNING = "running"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why a sandbox ended."""

    KILLED = "killed"
    """A client asked for it."""
    TIMEOUT = "timeout"
    """Its time to live was over."""
    EXITED = "exited"
    """Its first process ended by itself."""
    OOM = "oom"
    """The kernel ended its first process for want of memory."""
    SERVER_STOPPED = "server_stopped"
    """The server was told to take its sandboxes with it."""
    LOST = "lost"
    """It was gone when the server came back."""
    DISCARDED = "discarded"
    """A pooled sandbox that was not wanted any more."""
    FAILED = "failed"
    """It could not be handed out."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How a create that is repeated is recognised."""

    key: str
    fingerprint: str
    """Digest of what was asked for: the same key must not stand for something else."""


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """What a client asks for."""

    template: str
    timeout: int
    """Seconds to live, from now."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    envs: Mapping[str, str] = field(default_factory=dict)
    secured: bool = True
    """Whether the agent's API wants an access token."""
    egress: Egress = field(default_factory=Egress)
    internet_access: bool | None = None
    """As the client said it; None when it said nothing."""
    allow_public_traffic: bool = True
    mask_request_host: str | None = None
    idempotency: Idempotency | None = None
    volumes: tuple[NamedMount, ...] = ()


@dataclass(slots=True, eq=False)
class Sandbox:
    """A live sandbox."""

    sandbox_id: str
    template: Template
    instance: Instance
    agent: AgentClient
    driver: Driver
    created_at: float
    """Seconds since the epoch at which it was booted (for the pool's order)."""
    state: SandboxState = SandboxState.POOLED
    team_id: str = ""
    started_at: datetime | None = None
    end_at: datetime | None = None
    """When its time to live is over, for clients. The reaper goes by the monotonic clock."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    envs: Mapping[str, str] = field(default_factory=dict)
    """Variables of every command: the template's, the standard ones and those of create."""
    access_token: str | None = None
    traffic_token: str | None = None
    mask_request_host: str | None = None
    egress: Egress = field(default_factory=Egress)
    internet_access: bool | None = None
    idempotency: Idempotency | None = None
    """What it was asked for with, when that may be repeated."""
    volumes: tuple[NamedMount, ...] = ()
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set the moment the sandbox ends, whyever: everything that streams from it must drop."""
    end_reason: EndReason | None = None
    logbook: Logbook | None = None
    """Where its processes are written down; None when nobody reads it."""
    followers: set[asyncio.Task[None]] = field(default_factory=set)
    """What waits for the ends of processes that no client listens to."""

    async def dial(self, port: int) -> socket.socket:
        """Open a connection to a port inside.

        Raises `PortClosed` when nothing listens there, `SandboxGone` when the sandbox has ended.
        """
        return await self.driver.dial(self.instance, port)

    async def measure(self) -> Usage:
        """Measure what the sandbox uses now. Raises `SandboxGone` when it has ended."""
        return await self.driver.usage(self.instance)
