"""`atoll keys`: API keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.accounts import with_accounts
from atoll.cli.masks import print_masks
from atoll.cli.options import DataDir, Json
from atoll.errors import InvalidInput

if TYPE_CHECKING:
    from atoll.store.accounts import Accounts

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    team: Annotated[
        str | None, typer.Option(help="The team it belongs to.", show_default="default")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It can't be shown again: only its hash is kept."""
    from atoll.server import LOCAL_KEY_NAME
    from atoll.store.teams import DEFAULT_TEAM

    team = team or DEFAULT_TEAM
    if name == LOCAL_KEY_NAME and team == DEFAULT_TEAM:
        raise InvalidInput(
            f"the name {name!r} is the server's own", remedy="choose another name for the key"
        )

    async def work(accounts: Accounts) -> str:
        _, key = await accounts.keys.create(await accounts.teams.ensure(team), name)
        return key

    key = with_accounts(data_dir, work)
    typer.echo(json.dumps({"key": key, "name": name, "team": team}) if as_json else key)


@app.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the keys."""
    found = with_accounts(data_dir, lambda accounts: accounts.keys.list())
    found = [key for key in found if team in (None, key.team)]
    if as_json:
        rows = [
            {
                "id": key.key_id,
                "team": key.team,
                "name": key.name,
                "hint": key.mask.tail,
                "created_at": key.created_at.isoformat(),
            }
            for key in found
        ]
        typer.echo(json.dumps(rows))
        return
    shown = [
        (key.key_id, str(key.mask), key.team, key.name, f"{key.created_at:%Y-%m-%d %H:%M}")
        for key in found
    ]
    print_masks(("id", "key", "team", "name", "made"), shown)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `atoll keys list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key worthless; a running server follows within two seconds."""
    with_accounts(data_dir, lambda accounts: accounts.keys.revoke(key_id))
    typer.echo(f"revoked {key_id}")
