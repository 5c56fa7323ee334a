"""`atoll template …`: what sandboxes are made from, from the command line."""

from __future__ import annotations

import typer

from atoll.cli.template import beginning, building, deletion, listing, logs, travel

app = typer.Typer(help="Build, show, list and delete templates.", no_args_is_help=True)
app.command("init")(beginning.init)
app.command("build")(building.build)
app.command("list")(listing.list_templates)
app.command("show")(listing.show)
app.command("logs")(logs.logs)
app.command("delete")(deletion.delete)
app.command("push")(travel.push)
app.command("pull")(travel.pull)
