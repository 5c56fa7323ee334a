"""`atoll template logs`: what a build has said."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.printing import format_time, print_json
from atoll.cli.target import ApiKey, ApiUrl, locate_target
from atoll.cli.template.client import BuildBroken, TemplateBuild, format_entry
from atoll.cli.template.listing import TemplateName
from atoll.errors import NotFound


def logs(
    template: TemplateName,
    build_id: Annotated[
        str | None, typer.Option("--build", help="A build's id.", show_default="the newest")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the build has ended, or Ctrl-C.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show the log of a template's build; with --json one document per line."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    found: dict[str, Any] = api.call("GET", "templates", template)
    if build_id is None:
        if not found["builds"]:
            raise NotFound(f"the template {template!r} has no builds")
        build_id = max(found["builds"], key=lambda each: str(each["createdAt"]))["buildID"]
    build = TemplateBuild(api, found["templateID"], build_id)
    try:
        for entry in build.follow(to_the_end=follow):
            if as_json:
                print_json(entry)
                continue
            typer.echo(f"{format_time(entry['timestamp'])}  {format_entry(entry)}")
    except BuildBroken:
        raise typer.Exit(1) from None  # the log has said why
