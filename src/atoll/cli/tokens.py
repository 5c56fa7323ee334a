"""`atoll tokens`: access tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.accounts import with_accounts
from atoll.cli.masks import print_masks
from atoll.cli.options import DataDir, Json

if TYPE_CHECKING:
    from atoll.store.accounts import Accounts

app = typer.Typer(help="Make, list and revoke access tokens.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    team: Annotated[
        list[str] | None,
        typer.Option(
            help="A team that it acts for; may be repeated, the first is its default.",
            show_default="default",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make an access token and print it. It can't be shown again: only its hash is kept."""
    from atoll.store.teams import DEFAULT_TEAM

    wanted = team or [DEFAULT_TEAM]

    async def work(accounts: Accounts) -> str:
        _, token = await accounts.tokens.create(name, await accounts.teams.find(wanted))
        return token

    token = with_accounts(data_dir, work)
    typer.echo(json.dumps({"token": token, "name": name, "teams": wanted}) if as_json else token)


@app.command("list")
def list_tokens(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the access tokens."""
    found = with_accounts(data_dir, lambda accounts: accounts.tokens.list())
    if as_json:
        rows = [
            {
                "id": token.token_id,
                "name": token.name,
                "teams": [team.name for team in token.teams],
                "hint": token.mask.tail,
                "created_at": token.created_at.isoformat(),
            }
            for token in found
        ]
        typer.echo(json.dumps(rows))
        return
    shown = [
        (
            token.token_id,
            str(token.mask),
            ", ".join(team.name for team in token.teams),
            token.name,
            f"{token.created_at:%Y-%m-%d %H:%M}",
        )
        for token in found
    ]
    print_masks(("id", "token", "teams", "name", "made"), shown)


@app.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(help="The id that `atoll tokens list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """Make an access token worthless, and the API keys that were given out for it."""
    with_accounts(data_dir, lambda accounts: accounts.tokens.revoke(token_id))
    typer.echo(f"revoked {token_id}")
