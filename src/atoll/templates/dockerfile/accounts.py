"""Accounts at registries, as `docker login` writes them down."""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path

from atoll.errors import InvalidInput
from atoll.templates.images.reference import parse_reference
from atoll.templates.recipe import Credentials

_MAX_BYTES = 1 << 20
_DOCKER = ("docker.io", "index.docker.io", "https://index.docker.io/v1/")
"""What Docker's own registry is called in such files."""


class Accounts:
    """The accounts of one file."""

    def __init__(self, file: Path | None = None) -> None:
        """`file` has to be there when it is named; else Docker's own is read if it is there.

        Raises `InvalidInput`.
        """
        self._file = file or _docker_file()
        self._entries = self._read(required=file is not None)

    def find(self, image: str) -> Credentials | None:
        """Who may fetch this image, as far as the file says. Raises `InvalidInput`."""
        if not self._entries:
            return None
        registry = parse_reference(image).registry
        names = _DOCKER if registry in _DOCKER else (registry, f"https://{registry}")
        entry = next((self._entries[name] for name in names if name in self._entries), None)
        if not entry:
            return None
        try:
            text = base64.b64decode(entry["auth"], validate=True).decode()
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise InvalidInput(
                f"{self._file} holds no password for {registry}",
                remedy="name another file with --authfile; helpers are not asked for passwords",
            ) from None
        username, _, password = text.partition(":")
        return Credentials(username, password)

    def _read(self, *, required: bool) -> dict[str, dict[str, str]]:
        try:
            with self._file.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
            entries = content.get("auths") or {}
            return {str(name): dict(entry) for name, entry in entries.items()}
        except FileNotFoundError:
            if required:
                raise InvalidInput(f"there is no {self._file}") from None
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{self._file} can't be read: {error}") from None


def _docker_file() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
