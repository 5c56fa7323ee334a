"""`atoll template init`: the files of a new template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atoll.errors import Conflict, InvalidInput

_DOCKERFILE = """\
FROM e2bdev/base

# What is installed here is in every sandbox from the first moment:
# RUN pip install --no-cache-dir requests
"""


def init(
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="The template.", show_default="the directory's name"),
    ] = None,
    path: Annotated[Path, typer.Option("--path", "-p", help="Where to put the files.")] = Path(),
) -> None:
    """Write an e2b.toml and an e2b.Dockerfile to begin with; what is there is left alone."""
    from atoll.templates.project import DOCKERFILES, FILE

    config, dockerfile = path / FILE, path / DOCKERFILES[0]
    for each in (config, dockerfile):
        if each.exists():
            raise Conflict(f"{each} is there already", remedy="build it: `atoll template build`")
    name = name or path.resolve().name.lower()
    if not name:
        raise InvalidInput("the template needs a name", remedy="give one with --name")
    path.mkdir(parents=True, exist_ok=True)
    dockerfile.write_text(_DOCKERFILE)
    # What JSON calls a string is one in TOML, too.
    config.write_text(
        f"template_name = {json.dumps(name)}\ndockerfile = {json.dumps(dockerfile.name)}\n"
    )
    typer.echo(f"wrote {config} and {dockerfile}; build with: atoll template build")
