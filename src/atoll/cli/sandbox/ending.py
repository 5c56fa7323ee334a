"""`atoll sandbox kill`."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.pairs import Metadata, encode_metadata
from atoll.cli.printing import print_json
from atoll.cli.sandbox.completion import SandboxIds
from atoll.cli.sandbox.filters import check_states
from atoll.cli.target import ApiKey, ApiUrl, locate_target
from atoll.errors import NotFound


def kill(
    sandbox_ids: SandboxIds = None,
    every: Annotated[bool, typer.Option("--all", "-a", help="All that fit the filters.")] = False,
    state: Annotated[
        str | None,
        typer.Option(
            "--state",
            "-s",
            help="With --all: running, paused, or both.",
            show_default="running",
            callback=check_states,
        ),
    ] = None,
    metadata: Metadata = None,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """End sandboxes for good. The status is 1 when one of those named is not there."""
    if bool(sandbox_ids) == every:
        raise typer.BadParameter("name sandboxes, or give --all: one of both, not both")
    if not every and (state or metadata):
        raise typer.BadParameter("--state and --metadata are for --all")
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    if every:
        fitting = api.list(state=state or "running", metadata=encode_metadata(metadata))
        names = [each["sandboxID"] for each in fitting]
    else:
        names = list(dict.fromkeys(sandbox_ids or ()))
    killed, missing = [], []
    for name in names:
        try:
            api.call("DELETE", "sandboxes", name)
        except NotFound:
            missing.append(name)
        else:
            killed.append(name)
            if not as_json:
                typer.echo(f"killed {name}")
    if as_json:
        print_json({"killed": killed, "missing": missing})
    elif every and not killed:
        typer.echo("no sandboxes")
    if missing and not every:
        for name in missing:
            typer.echo(f"atoll: there is no sandbox {name}", err=True)
        typer.echo("FIX: `atoll sandbox list` shows the sandboxes there are", err=True)
        raise typer.Exit(1)
