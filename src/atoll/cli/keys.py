"""`atoll keys`: API keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from atoll.cli.options import DataDir, Json
from atoll.errors import InvalidInput
from atoll.server import LOCAL_KEY_NAME
from atoll.settings import load_settings
from atoll.store.database import Database
from atoll.store.keys import DEFAULT_TEAM, KeyStore

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@contextlib.contextmanager
def _open_keys(data_dir: DataDir) -> Iterator[KeyStore]:
    database = Database(load_settings(data_dir=data_dir).database)
    try:
        yield KeyStore(database)
    finally:
        database.close()


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    team: Annotated[str, typer.Option(help="The team it belongs to.")] = DEFAULT_TEAM,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It can't be shown again: only its hash is kept."""
    if name == LOCAL_KEY_NAME and team == DEFAULT_TEAM:
        raise InvalidInput(
            f"the name {name!r} is the server's own", remedy="choose another name for the key"
        )
    with _open_keys(data_dir) as keys:
        key = keys.create(name=name, team=team)
    typer.echo(json.dumps({"key": key, "name": name, "team": team}) if as_json else key)


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the keys."""
    with _open_keys(data_dir) as keys:
        found = keys.list()
    if as_json:
        rows = [
            {
                "id": key.key_id,
                "team": key.team,
                "name": key.name,
                "hint": key.hint,
                "created_at": key.created_at.isoformat(),
            }
            for key in found
        ]
        typer.echo(json.dumps(rows))
        return
    table = Table(Column("id", no_wrap=True, min_width=36), "team", "name", "key", "made")
    for key in found:
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(key.key_id, key.team, key.name, f"e2b_…{key.hint}", made)
    Console().print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `atoll keys list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key worthless; a running server follows within two seconds."""
    with _open_keys(data_dir) as keys:
        keys.revoke(key_id)
    typer.echo(f"revoked {key_id}")
