"""`atoll teams`: teams."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atoll.cli.accounts import with_accounts
from atoll.cli.options import DataDir, Json

app = typer.Typer(help="Make and list teams, and shut them out.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="How the team is called.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a team and print its id."""
    team_id = with_accounts(data_dir, lambda accounts: accounts.teams.create(name))
    typer.echo(json.dumps({"id": team_id, "name": name}) if as_json else team_id)


@app.command("list")
def list_teams(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the teams."""
    from rich.console import Console
    from rich.table import Column, Table

    found = with_accounts(data_dir, lambda accounts: accounts.teams.list())
    if as_json:
        rows = [
            {
                "id": team.team_id,
                "name": team.name,
                "keys": team.keys,
                "created_at": team.created_at.isoformat(),
            }
            for team in found
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table(Column("id", no_wrap=True, min_width=36), "name", "keys", "made")
    for team in found:
        made = f"{team.created_at:%Y-%m-%d %H:%M}"
        table.add_row(team.team_id, team.name, str(team.keys), made)
    Console().print(table)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The team's name.")],
    data_dir: DataDir = None,
) -> None:
    """Shut a team out: all its keys become worthless, and access tokens lose it."""
    with_accounts(data_dir, lambda accounts: accounts.teams.revoke(name))
    typer.echo(f"revoked all keys of {name}")
