"""What a template is."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

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
