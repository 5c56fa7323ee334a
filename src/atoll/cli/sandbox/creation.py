"""`atoll sandbox create` and `connect`: a sandbox with this terminal in it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.pairs import Envs, Metadata, parse_pairs
from atoll.cli.printing import print_json
from atoll.cli.sandbox.completion import SandboxId
from atoll.cli.target import ApiKey, ApiUrl, locate_target
from atoll.errors import InvalidInput, NotFound

User = Annotated[str | None, typer.Option("--user", "-u", help="The terminal's user.")]
Cwd = Annotated[str | None, typer.Option("--cwd", "-c", help="The terminal's directory.")]


class OnTimeout(StrEnum):
    """What becomes of a sandbox whose time is over."""

    KILL = "kill"
    PAUSE = "pause"


def create(
    template: Annotated[str, typer.Argument(help="A template's name or id.")] = "base",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the sandbox's id; open no terminal.")
    ] = False,
    timeout: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Seconds to live; with a terminal, seconds to live after it.",
            show_default="300; with a terminal, none after it",
        ),
    ] = None,
    metadata: Metadata = None,
    on_timeout: Annotated[
        OnTimeout, typer.Option("--lifecycle.ontimeout", help="What happens when time is over.")
    ] = OnTimeout.KILL,
    auto_resume: Annotated[
        bool, typer.Option("--lifecycle.autoresume", help="Wake when used; needs pause.")
    ] = False,
    user: User = None,
    cwd: Cwd = None,
    env: Envs = None,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Make a sandbox and open a terminal in it. Without --timeout it ends with the terminal."""
    from atoll.cli.sandbox.terminal import require_terminal

    if auto_resume and on_timeout is not OnTimeout.PAUSE:
        raise typer.BadParameter("--lifecycle.autoresume needs --lifecycle.ontimeout pause")
    target = locate_target(data_dir, api_url, api_key)
    api = ControlPlane(target)
    alone = detach or as_json
    if not alone:
        require_terminal()
    body: dict[str, object] = {"templateID": template, "metadata": parse_pairs(metadata)}
    if timeout is not None:
        body["timeout"] = timeout
    if on_timeout is OnTimeout.PAUSE:
        body |= {"autoPause": True, "autoResume": {"enabled": auto_resume}}
    if alone:
        body["envVars"] = parse_pairs(env)
    try:
        made = api.call("POST", "v2", "sandboxes", body=body)
    except InvalidInput as error:
        if not error.message.startswith("autoPause "):
            raise
        raise InvalidInput(
            "this server can't pause sandboxes", remedy="leave --lifecycle.ontimeout pause out"
        ) from None
    sandbox_id = made["sandboxID"]
    if alone:
        print_json(made) if as_json else typer.echo(sandbox_id)
        return
    from atoll.cli.sandbox.programs import Program
    from atoll.cli.sandbox.terminal import SHELL, open_terminal

    typer.echo(f"sandbox {sandbox_id}; leave it with `exit`, or Enter ~ .", err=True)
    status = None
    try:
        program = Program(SHELL, user, cwd, parse_pairs(env))
        status = open_terminal(api, target, made, program)
    finally:
        try:
            if timeout is None:
                api.call("DELETE", "sandboxes", sandbox_id)
            else:
                body = {"timeout": timeout}
                api.call("POST", "sandboxes", sandbox_id, "timeout", body=body)
        except NotFound:
            typer.echo(f"sandbox {sandbox_id} is gone", err=True)
    raise typer.Exit(status)


def connect(
    sandbox_id: SandboxId,
    user: User = None,
    cwd: Cwd = None,
    env: Envs = None,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Open a terminal in a sandbox, which goes on when the terminal ends; a paused one is resumed.

    With --json no terminal is opened, and what a client needs to reach the sandbox is printed.
    """
    target = locate_target(data_dir, api_url, api_key)
    api = ControlPlane(target)
    if as_json:
        print_json(api.connect(sandbox_id))
        return
    from atoll.cli.sandbox.programs import Program
    from atoll.cli.sandbox.terminal import SHELL, open_terminal, require_terminal

    require_terminal()
    made = api.connect(sandbox_id)
    typer.echo(f"sandbox {sandbox_id}; leave it with `exit`, or Enter ~ .", err=True)
    program = Program(SHELL, user, cwd, parse_pairs(env))
    raise typer.Exit(open_terminal(api, target, made, program))
