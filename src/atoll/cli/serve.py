"""`atoll serve`: the server itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.options import DataDir
from atoll.running import RunningServer


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The one port of the server.", show_default="3000")
    ] = None,
    data_dir: DataDir = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM) with which the port speaks TLS.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key (PEM), when it is in another file.")
    ] = None,
    stop_sandboxes: Annotated[
        bool,
        typer.Option(
            "--stop-sandboxes",
            help="End all sandboxes with the server, instead of leaving them to the next start.",
        ),
    ] = False,
) -> None:
    """Serve until Ctrl-C. Sandboxes live on, unless --stop-sandboxes is given."""
    import uvloop

    from atoll.logs import configure_logs
    from atoll.server import Server, lock_data_dir
    from atoll.settings import load_settings

    settings = load_settings(
        host=host, port=port, data_dir=data_dir, tls_cert=tls_cert, tls_key=tls_key
    )
    configure_logs(settings.log_format)
    with lock_data_dir(settings.data_dir):
        uvloop.run(
            Server(settings).run(
                stop_sandboxes=stop_sandboxes, progress=_print_progress, ready=_print_ready
            )
        )


def _print_progress(line: str) -> None:
    typer.echo(f"  {line}", err=True)


def _print_ready(server: RunningServer) -> None:
    # Not the key: what a service prints ends up in logs.
    typer.echo(f"Atoll is ready at {server.url}; `atoll env` prints the settings for clients")
