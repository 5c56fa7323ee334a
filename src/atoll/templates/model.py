"""What a template is."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atoll.isolation.driver import Resources

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Template:
    """An environment that sandboxes start from."""

    template_id: str
    """Lower-case letters and digits; what the API calls `templateID`."""
    names: tuple[str, ...]
    """Names (aliases) that resolve to it, the main one first."""
    build_id: str
    """Changes with the content; a pooled sandbox of another build is never handed out."""
    layers: tuple[Path, ...]
    """Read-only root file system directories, the topmost first."""
    created_at: datetime
    resources: Resources = field(default_factory=Resources)
    user: str = "user"
    """Who runs commands when the caller names nobody."""
    workdir: str | None = None
    """Where commands start; None is the home directory of the user."""
    envs: Mapping[str, str] = field(default_factory=dict)
    start_command: str | None = None
    """Run by the login shell of `user` in every sandbox before it is handed out, and left running.
    """
    ready_command: str | None = None
    """Succeeds once what `start_command` runs is ready."""


def derive_id(name: str) -> str:
    """The id of the template with this main name: the same on every machine and after every build.

    20 lower-case letters and digits, the form that E2B's ids have.
    """
    number = int.from_bytes(hashlib.sha256(f"template:{name}".encode()).digest())
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ID_ALPHABET))
        digits.append(_ID_ALPHABET[digit])
    return "".join(digits)


def is_same(one: Template, other: Template) -> bool:
    """Whether sandboxes of the two are alike, whatever build they are of."""
    return replace(one, build_id=other.build_id, created_at=other.created_at) == other


def dump_template(template: Template) -> dict[str, Any]:
    """The whole template as JSON: it may be rebuilt or removed while its sandboxes live on."""
    return {
        "template_id": template.template_id,
        "names": list(template.names),
        "build_id": template.build_id,
        "layers": [str(layer) for layer in template.layers],
        "created_at": template.created_at.timestamp(),
        "resources": asdict(template.resources),
        "user": template.user,
        "workdir": template.workdir,
        "envs": dict(template.envs),
        "start_command": template.start_command,
        "ready_command": template.ready_command,
    }


def load_template(data: Mapping[str, Any]) -> Template:
    """The template that was dumped. Raises `KeyError` or `TypeError` for what is no dump."""
    return Template(
        template_id=data["template_id"],
        names=tuple(data["names"]),
        build_id=data["build_id"],
        layers=tuple(Path(layer) for layer in data["layers"]),
        created_at=datetime.fromtimestamp(data["created_at"], UTC),
        resources=Resources(**data["resources"]),
        user=data["user"],
        workdir=data["workdir"],
        envs=data["envs"],
        start_command=data.get("start_command"),
        ready_command=data.get("ready_command"),
    )
