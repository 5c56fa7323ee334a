"""The command `atoll`."""

from __future__ import annotations

import os
import sys

import typer

from atoll.cli import (
    certs,
    clean,
    demo,
    doctor,
    environment,
    keys,
    sandbox,
    serve,
    teams,
    template,
    tokens,
)
from atoll.errors import AtollError

app = typer.Typer(
    name="atoll",
    help="The sandbox server for AI agents that a person can own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("env")(environment.show_environment)
app.command("doctor")(doctor.doctor)
app.command("certs")(certs.make_certificates)

app.command("clean")(clean.clean)
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(keys.app, name="keys")
app.add_typer(template.app, name="template")
app.add_typer(teams.app, name="teams")
app.add_typer(tokens.app, name="tokens")


def main() -> None:
    """Run the command line; an error that we foresaw ends it with one or two lines, status 1."""
    status: object = 0
    try:
        app()
    except AtollError as error:
        typer.echo(f"atoll: {error.message}", err=True)
        if error.remedy:
            typer.echo(f"FIX: {error.remedy}", err=True)
        status = 1
    except SystemExit as ended:
        status = ended.code
    if "pyqwest" in sys.modules and isinstance(status, int):
        # Its threads may still be taking down a request that was broken off; when the interpreter
        # is taken down meanwhile, they abort it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)  # type: ignore[arg-type]
