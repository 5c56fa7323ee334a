"""`atoll env`: what other programs need to know about a running server."""

from __future__ import annotations

import json

import typer

from atoll.cli.options import DataDir, Json
from atoll.errors import HostError
from atoll.running import RunningServer, find_server, locate_data_dir


def collect_variables(server: RunningServer) -> dict[str, str]:
    """The environment variables that point the official E2B SDKs at the server."""
    variables = {
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
        "E2B_VOLUME_API_URL": server.url,
        "E2B_API_KEY": server.api_key,
    }
    if server.url.startswith("https:"):
        # Old releases know no E2B_SANDBOX_URL and go by the domain, which says https.
        variables["E2B_DOMAIN"] = server.domain
    if server.trust:
        variables["SSL_CERT_FILE"] = variables["NODE_EXTRA_CA_CERTS"] = server.trust
    return variables


def format_exports(server: RunningServer) -> list[str]:
    """The same, as lines that a shell can source."""
    return [f"export {name}={value}" for name, value in collect_variables(server).items()]


def show_environment(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Print the settings for clients of the running server: eval "$(atoll env)"."""
    directory = locate_data_dir(data_dir)
    server = find_server(directory)
    if server is None:
        raise HostError(
            f"no server runs on {directory}",
            remedy="start one with `atoll serve`, or name its directory with --data-dir",
        )
    if as_json:
        typer.echo(json.dumps(collect_variables(server)))
    else:
        typer.echo("\n".join(format_exports(server)))
