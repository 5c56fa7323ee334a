"""`atoll sandbox …`: sandboxes from the command line, with the verbs of the official one."""

from __future__ import annotations

import typer

from atoll.cli.sandbox import creation, ending, execution, listing, watching

app = typer.Typer(help="Make, use, list and end sandboxes.", no_args_is_help=True)
app.command("create")(creation.create)
app.command("connect")(creation.connect)
# Whatever follows the sandbox's id is the command's, options included.
app.command("exec", context_settings={"allow_interspersed_args": False})(execution.execute)
app.command("info")(listing.info)
app.command("kill")(ending.kill)
app.command("list")(listing.list_sandboxes)
app.command("logs")(watching.logs)
app.command("metrics")(watching.metrics)
