"""`atoll env`: what other programs need to know about a running server."""

from __future__ import annotations

import json

import typer

from atoll.cli.options import DataDir, Json
from atoll.errors import HostError
from atoll.server import RunningServer, find_server
from atoll.settings import load_settings


def collect_variables(server: RunningServer) -> dict[str, str]:
    """The environment variables that point the official E2B SDKs at the server."""
    return {
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_API_KEY": server.api_key,
    }


def format_exports(server: RunningServer) -> list[str]:
    """The same, as lines that a shell can source."""
    return [f"export {name}={value}" for name, value in collect_variables(server).items()]


def show_environment(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print the settings for clients of the running server: eval "$(atoll env)"."""
    settings = load_settings(data_dir=data_dir)
    server = find_server(settings.data_dir)
    if server is None:
        raise HostError(
            f"no server runs on {settings.data_dir}",
            remedy="start one with `atoll serve`, or name its directory with --data-dir",
        )
    if as_json:
        typer.echo(json.dumps(collect_variables(server)))
    else:
        typer.echo("\n".join(format_exports(server)))
