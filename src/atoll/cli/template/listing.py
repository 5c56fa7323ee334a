"""`atoll template list` and `show`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.printing import format_time, print_json, print_table
from atoll.cli.target import ApiKey, ApiUrl, locate_target

TemplateName = Annotated[str, typer.Argument(metavar="TEMPLATE", help="The template's name or id.")]

_COLUMNS = ("template", "built", "cpus", "MiB", "disk", "status", "names")
_BUILD_COLUMNS = ("build", "status", "began", "ended", "cpus", "MiB")


def list_templates(
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """List the templates of the team."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    found: list[dict[str, Any]] = api.call("GET", "templates")
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no templates")
        return
    rows = [
        (
            each["templateID"],
            format_time(each["updatedAt"]),
            str(each["cpuCount"]),
            str(each["memoryMB"]),
            str(each["diskSizeMB"]),
            each["buildStatus"],
            ", ".join(each["names"]),
        )
        for each in found
    ]
    print_table(_COLUMNS, rows)


def show(
    template: TemplateName,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show a template with its builds and tags."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    found: dict[str, Any] = api.call("GET", "templates", template)
    found["tags"] = api.call("GET", "templates", template, "tags")
    if as_json:
        print_json(found)
        return
    tags: dict[str, list[str]] = {}
    for each in found["tags"]:
        tags.setdefault(each["buildID"], []).append(each["tag"])
    typer.echo(f"{found['templateID']}  {', '.join(found['names'])}")
    rows = [
        (
            each["buildID"],
            each["status"],
            format_time(each["createdAt"]),
            format_time(each["finishedAt"]) if each.get("finishedAt") else "",
            str(each["cpuCount"]),
            str(each["memoryMB"]),
            ", ".join(tags.get(each["buildID"], ())),
        )
        for each in found["builds"]
    ]
    print_table((*_BUILD_COLUMNS, "tags"), rows)
