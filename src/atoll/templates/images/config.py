"""What an image says of itself: how programs in it are meant to run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll.errors import InvalidInput

_MAX_TEXT = 64 << 10
_MAX_LIST = 1000
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

_Text = Field(default="", max_length=_MAX_TEXT)
_List = Field(default=None, max_length=_MAX_LIST)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image's configuration that matter to a template."""

    diff_ids: tuple[str, ...]
    """Digests of the unpacked layers' archives, the lowest first."""
    envs: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    """A name or number, with or without a group; empty is root."""
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class _Process(BaseModel):
    """`config` of an image's configuration. Go writes null for what is empty."""

    model_config = ConfigDict(extra="ignore")

    Env: list[str] | None = _List
    User: str | None = _Text
    WorkingDir: str | None = _Text
    Entrypoint: list[str] | None = _List
    Cmd: list[str] | None = _List
    Labels: dict[str, str] | None = _List


class _RootFs(BaseModel):
    type: str = "layers"
    diff_ids: list[str] | None = _List


class _Image(BaseModel):
    """The configuration; its form is that of the OCI image specification, and Docker's."""

    model_config = ConfigDict(extra="ignore")

    architecture: str = _Text
    os: str = _Text
    config: _Process | None = None
    rootfs: _RootFs = Field(default_factory=_RootFs)


def read_config(content: bytes, *, machine: str) -> ImageConfig:
    """Read an image's configuration. `machine` is this host's, as `uname` names it.

    Raises `InvalidInput` for what is none, or is for another kind of machine.
    """
    try:
        image = _Image.model_validate(json.loads(content))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"the image's configuration is wrong at {place}: {first['msg']}"
        ) from None
    except (ValueError, RecursionError):
        raise InvalidInput("the image's configuration is no JSON") from None
    wanted = _MACHINES.get(machine, machine)
    if image.os not in ("", "linux") or image.architecture not in ("", wanted):
        raise InvalidInput(
            f"the image is for {image.os}/{image.architecture}, this machine is linux/{wanted}",
            remedy=f"name an image that has a variant for linux/{wanted}",
        )
    process = image.config or _Process()
    return ImageConfig(
        diff_ids=tuple(image.rootfs.diff_ids or ()),
        envs=_split(process.Env or []),
        user=process.User or "",
        workdir=process.WorkingDir or "",
        entrypoint=tuple(process.Entrypoint or ()),
        command=tuple(process.Cmd or ()),
        labels=process.Labels or {},
    )


def load_config(fields: Mapping[str, Any]) -> ImageConfig:
    """The configuration of which `asdict` gave these fields, by way of JSON."""
    lists = ("diff_ids", "entrypoint", "command")
    return ImageConfig(**{**fields, **{name: tuple(fields[name]) for name in lists}})


def dump_config(config: ImageConfig, *, machine: str, created: str) -> dict[str, Any]:
    """The configuration as an image carries it."""
    process: dict[str, Any] = {"Env": [f"{name}={value}" for name, value in config.envs.items()]}
    if config.user:
        process["User"] = config.user
    if config.workdir:
        process["WorkingDir"] = config.workdir
    if config.entrypoint:
        process["Entrypoint"] = list(config.entrypoint)
    if config.command:
        process["Cmd"] = list(config.command)
    if config.labels:
        process["Labels"] = dict(config.labels)
    return {
        "created": created,
        "architecture": _MACHINES.get(machine, machine),
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": list(config.diff_ids)},
        "history": [{"created": created, "created_by": "atoll"} for _ in config.diff_ids],
    }


def _split(pairs: list[str]) -> dict[str, str]:
    envs = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name and equals and "\0" not in pair:
            envs[name] = value
    return envs
