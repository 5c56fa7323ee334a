"""`atoll template delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir
from atoll.cli.target import ApiKey, ApiUrl, locate_target


def delete(
    templates: Annotated[
        list[str], typer.Argument(metavar="TEMPLATE...", help="The templates' names or ids.")
    ],
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Delete templates. Sandboxes that run on them go on."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    for template in dict.fromkeys(templates):
        api.call("DELETE", "templates", template)
        typer.echo(f"deleted {template}")
