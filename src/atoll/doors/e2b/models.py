"""Bodies of the control plane, as E2B's API description names them."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from atoll.errors import InvalidInput
from atoll.isolation.driver import Egress
from atoll.sandboxes.model import NewSandbox, Sandbox
from atoll.store.secret import Mask
from atoll.volumes.model import NamedMount

ENVD_VERSION = "0.6.7"
"""What the SDKs switch features by: the newest envd whose protocol the agent's door speaks."""
CLIENT_ID = "atoll"
"""A deprecated field that clients still want to find."""

Seconds = Annotated[int, Field(ge=0, le=2**31 - 1)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+$", max_length=4096)]
EnvValue = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
_LONGEST_ENV = 131_072 - 2
"""Bytes of a name and a value: with `=` and the zero at the end, what Linux hands to a program."""
_MOST_METADATA = 64 << 10
"""Bytes of all names and values: lists, events and webhooks repeat them for each sandbox."""


class _Body(BaseModel):
    """A request body: fields that we don't know are ignored, as E2B does."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Options(BaseModel):
    """A body, or a part of one, in which an unknown field is an error.

    What it would have restricted, a program that asked for it would run without.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


def _check_network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(
            f"{value!r} is not an IP address or CIDR block (host names can't be filtered on here)"
        ) from None
    if network.version != 4:
        raise ValueError(f"{value!r} is not IPv4; sandboxes have no IPv6 outside themselves")
    return str(network)


Network = Annotated[str, StringConstraints(max_length=64)]


class EgressBody(_Options):
    """What the sandbox may reach."""

    allowOut: list[Network] | None = None
    denyOut: list[Network] | None = None
    dnsServers: list[Any] | None = None
    egressProxy: dict[str, Any] | None = None
    httpsPorts: list[Any] | None = None
    rules: dict[str, Any] | None = None

    @field_validator("allowOut", "denyOut")
    @classmethod
    def _check_networks(cls, value: list[str] | None) -> list[str] | None:
        return value if value is None else [_check_network(each) for each in value]

    def to_egress(self, internet: bool | None) -> Egress:
        """Raises `InvalidInput` for what can't be honoured: ignoring it would open a hole."""
        for name in ("dnsServers", "egressProxy", "httpsPorts", "rules"):
            if getattr(self, name):
                raise InvalidInput(
                    f"network.{name} is not supported by this server", remedy="leave it out"
                )
        return Egress(
            internet=internet is not False,
            allow=tuple(self.allowOut or ()),
            deny=tuple(self.denyOut or ()),
        )


class NetworkBody(EgressBody):
    """The network part of a create."""

    allowPublicTraffic: bool | None = None
    maskRequestHost: (
        Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=255)] | None
    ) = None


class NetworkUpdateBody(EgressBody):
    """Replaces the egress rules of a running sandbox; what is left out is cleared."""

    allow_internet_access: bool | None = None


class VolumeMountBody(_Options):
    """A volume in a create."""

    name: Annotated[str, StringConstraints(max_length=128)]
    path: Annotated[str, StringConstraints(max_length=4096)]


class AutoResumeBody(_Options):
    """Whether a paused sandbox wakes by itself."""

    enabled: bool | None = None


class NewSandboxBody(_Options):
    """`POST /sandboxes` and `POST /v2/sandboxes`."""

    templateID: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    timeout: Seconds | None = None
    autoPause: bool | None = None
    autoPauseMemory: bool | None = None
    """What a pause would keep. Without `autoPause`, which is refused, it means nothing."""
    autoResume: AutoResumeBody | None = None
    secure: bool | None = None
    allow_internet_access: bool | None = None
    network: NetworkBody | None = None
    metadata: dict[str, str] | None = None
    envVars: dict[EnvName, EnvValue] | None = None
    mcp: dict[str, Any] | None = None
    iam: dict[str, Any] | None = None
    volumeMounts: Annotated[list[VolumeMountBody], Field(max_length=100)] | None = None

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        size = sum(len(text.encode()) for pair in (value or {}).items() for text in pair)
        if size > _MOST_METADATA:
            raise ValueError(f"{size} bytes of names and values, at most are {_MOST_METADATA}")
        return value

    @field_validator("envVars")
    @classmethod
    def _check_envs(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name, text in (value or {}).items():
            if len(name.encode()) + len(text.encode()) > _LONGEST_ENV:
                raise ValueError(
                    f"{name[:100]} is longer than the {_LONGEST_ENV} bytes, name and value, "
                    "that a program can be given"
                )
        return value

    def to_request(self, *, default_timeout: int, secured: bool) -> NewSandbox:
        """Raises `InvalidInput` for an option that would be silently lost."""
        asked = {
            "autoPause": self.autoPause,
            "autoResume": bool(self.autoResume and self.autoResume.enabled),
            "mcp": self.mcp,
            "iam": self.iam,
        }
        for name, value in asked.items():
            if value:
                raise InvalidInput(f"{name} is not supported by this server", remedy="leave it out")
        network = self.network or NetworkBody()
        return NewSandbox(
            template=self.templateID,
            timeout=default_timeout if self.timeout is None else self.timeout,
            metadata=self.metadata or {},
            envs=self.envVars or {},
            secured=secured,
            egress=network.to_egress(self.allow_internet_access),
            internet_access=self.allow_internet_access,
            allow_public_traffic=network.allowPublicTraffic is not False,
            mask_request_host=network.maskRequestHost,
            volumes=tuple(NamedMount(each.name, each.path) for each in self.volumeMounts or ()),
        )


class ConnectBody(_Body):
    """`POST …/connect`."""

    timeout: Seconds | None = None


class TimeoutBody(_Body):
    """`POST …/timeout`."""

    timeout: Seconds


class NameBody(_Body):
    """`POST /api-keys`, `PATCH /api-keys/{id}` and `POST /access-tokens`."""

    name: str


class RefreshBody(_Body):
    """`POST …/refreshes`: at most an hour."""

    duration: Annotated[int, Field(ge=0, le=3600)] | None = None


def describe_sandbox(sandbox: Sandbox, domain: str) -> dict[str, Any]:
    """The answer to create and connect."""
    body: dict[str, Any] = {
        "templateID": sandbox.template.template_id,
        "sandboxID": sandbox.sandbox_id,
        "clientID": CLIENT_ID,
        "alias": sandbox.template.names[0],
        "envdVersion": ENVD_VERSION,
        "domain": domain,
    }
    if sandbox.access_token is not None:
        body["envdAccessToken"] = sandbox.access_token
    if sandbox.traffic_token is not None:
        body["trafficAccessToken"] = sandbox.traffic_token
    return body


def format_moment(moment: datetime) -> str:
    """A moment as E2B writes it: RFC 3339, in UTC, to the microsecond."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def describe_mask(mask: Mask) -> dict[str, Any]:
    """What is shown of a key or token."""
    return {
        "prefix": mask.prefix,
        "valueLength": mask.length,
        "maskedValuePrefix": mask.head,
        "maskedValueSuffix": mask.tail,
    }


def _format_time(sandbox: Sandbox, which: Literal["started_at", "end_at"]) -> str:
    return format_moment(getattr(sandbox, which))


def describe_listed(sandbox: Sandbox) -> dict[str, Any]:
    """An element of a list."""
    resources = sandbox.template.resources
    return {
        "templateID": sandbox.template.template_id,
        "alias": sandbox.template.names[0],
        "sandboxID": sandbox.sandbox_id,
        "clientID": CLIENT_ID,
        "startedAt": _format_time(sandbox, "started_at"),
        "endAt": _format_time(sandbox, "end_at"),
        "cpuCount": resources.cpu_count,
        "memoryMB": resources.memory_mb,
        "diskSizeMB": resources.disk_mb,
        "metadata": dict(sandbox.metadata),
        "state": sandbox.state.value,
        "envdVersion": ENVD_VERSION,
        "volumeMounts": [{"name": each.name, "path": each.path} for each in sandbox.volumes],
    }


def describe_detail(sandbox: Sandbox, domain: str) -> dict[str, Any]:
    """The answer to `GET /sandboxes/{id}`."""
    body = describe_listed(sandbox)
    body["domain"] = domain
    body["allowInternetAccess"] = sandbox.internet_access
    body["lifecycle"] = {"autoResume": False, "onTimeout": "kill"}
    network: dict[str, Any] = {"allowPublicTraffic": sandbox.traffic_token is None}
    if sandbox.egress.allow:
        network["allowOut"] = list(sandbox.egress.allow)
    if sandbox.egress.deny:
        network["denyOut"] = list(sandbox.egress.deny)
    if sandbox.mask_request_host is not None:
        network["maskRequestHost"] = sandbox.mask_request_host
    body["network"] = network
    if sandbox.access_token is not None:
        body["envdAccessToken"] = sandbox.access_token
    return body
