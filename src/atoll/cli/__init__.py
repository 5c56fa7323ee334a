"""The command `atoll`."""

from __future__ import annotations

import sys

import typer

from atoll.cli import clean, demo, doctor, environment, keys, serve, templates
from atoll.errors import AtollError

app = typer.Typer(
    name="atoll",
    help="The sandbox server for AI agents that a person can own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("env")(environment.show_environment)
app.command("doctor")(doctor.doctor)

app.command("clean")(clean.clean)
app.add_typer(keys.app, name="keys")
app.add_typer(templates.app, name="template")


def main() -> None:
    """Run the command line; an error that we foresaw ends it with one or two lines, status 1."""
    try:
        app()
    except AtollError as error:
        typer.echo(f"atoll: {error.message}", err=True)
        if error.remedy:
            typer.echo(f"FIX: {error.remedy}", err=True)
        sys.exit(1)
