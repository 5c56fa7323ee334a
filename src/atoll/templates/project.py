"""`e2b.toml`: what a directory's template is called, and how it is built and started."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll.errors import InvalidInput

FILE = "e2b.toml"
DOCKERFILES = ("e2b.Dockerfile", "Dockerfile")
"""In the order in which they are looked for."""

_MAX_BYTES = 1 << 20
_OLD_NAMES = {"id": "template_id", "name": "template_name"}


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    team_id: str | None = None
    team_name: str | None = None
    template_id: str | None = None
    template_name: str | None = None
    dockerfile: str | None = None
    start_cmd: str | None = None
    ready_cmd: str | None = None
    cpu_count: int | None = Field(default=None, ge=1)
    memory_mb: int | None = Field(default=None, ge=128)


@dataclass(frozen=True, slots=True)
class Project:
    """A directory that a template is built from."""

    root: Path
    """What COPY takes files from."""
    dockerfile: Path
    name: str | None = None
    start_command: str | None = None
    ready_command: str | None = None
    cpu_count: int | None = None
    memory_mb: int | None = None


def read_project(
    root: Path, *, config: Path | None = None, dockerfile: Path | None = None
) -> Project:
    """Read what a directory says of its template.

    `config` and `dockerfile` name other files than the usual ones, relative to `root`; without
    `config` there need be no `e2b.toml`. Raises `InvalidInput`.
    """
    file = root / (config or FILE)
    content = _read(file, required=config is not None)
    named = dockerfile or (Path(content.dockerfile) if content.dockerfile else None)
    candidates = [named] if named else [Path(each) for each in DOCKERFILES]
    found = next((root / each for each in candidates if (root / each).is_file()), None)
    if found is None:
        raise InvalidInput(
            f"there is no {' and no '.join(map(str, candidates))} in {root}",
            remedy="go to the directory of a template, name it with --path, or begin one with "
            "`atoll template init`",
        )
    return Project(
        root,
        found,
        content.template_name or content.template_id,
        content.start_cmd,
        content.ready_cmd,
        content.cpu_count,
        content.memory_mb,
    )


def _read(file: Path, *, required: bool) -> _Content:
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise InvalidInput(f"there is no {file}") from None
        return _Content()
    if len(text) > _MAX_BYTES:
        raise InvalidInput(f"{file} is bigger than {_MAX_BYTES >> 10} KiB")
    try:
        pairs = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{file} is no TOML: {error}") from None
    try:
        return _Content.model_validate({_OLD_NAMES.get(key, key): pairs[key] for key in pairs})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InvalidInput(
            f"{file}: {key}: {first['msg']}",
            remedy=f"the keys are {', '.join(_Content.model_fields)}",
        ) from None
