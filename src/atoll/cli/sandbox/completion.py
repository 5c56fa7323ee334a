"""Ids of sandboxes, completed by the shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.printing import clean
from atoll.cli.target import locate_target
from atoll.errors import AtollError

_PATIENCE_SECONDS = 2
_MOST = 200


def complete_sandbox(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids that begin like this, with what they were made from."""
    flags = ctx.params
    try:
        target = locate_target(flags.get("data_dir"), flags.get("api_url"), flags.get("api_key"))
        api = ControlPlane(target, timeout=_PATIENCE_SECONDS)
        query: dict[str, Any] = {"state": "running,paused"}
        for number, sandbox in enumerate(api.list(**query)):
            if number == _MOST:
                return
            if sandbox["sandboxID"].startswith(incomplete):
                yield sandbox["sandboxID"], clean(f"{sandbox['templateID']} {sandbox['startedAt']}")
    except AtollError:
        return  # A shell that completes has nowhere to put an error.


SandboxId = Annotated[
    str,
    typer.Argument(metavar="SANDBOX", help="The sandbox's id.", autocompletion=complete_sandbox),
]
SandboxIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SANDBOX]...", help="The sandboxes' ids.", autocompletion=complete_sandbox
    ),
]
