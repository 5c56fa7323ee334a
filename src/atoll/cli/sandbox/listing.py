"""`atoll sandbox list` and `info`."""

from __future__ import annotations

import itertools
import json
from enum import StrEnum
from typing import Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.pairs import Metadata, encode_metadata
from atoll.cli.printing import clean, format_pairs, format_time, print_json, print_table
from atoll.cli.sandbox.completion import SandboxId
from atoll.cli.sandbox.filters import check_moment, check_states
from atoll.cli.target import ApiKey, ApiUrl, locate_target

_SECRETS = ("envdAccessToken", "trafficAccessToken")
_COLUMNS = ("sandbox", "template", "state", "started", "ends", "metadata")


class Order(StrEnum):
    """By the time of the start."""

    ASC = "asc"
    DESC = "desc"


def list_sandboxes(
    state: Annotated[
        str,
        typer.Option(
            "--state", "-s", help="running, paused, or both with a comma.", callback=check_states
        ),
    ] = "running",
    metadata: Metadata = None,
    template: Annotated[
        str | None, typer.Option("--template", "-t", help="Only those of a template.")
    ] = None,
    started_after: Annotated[
        str | None,
        typer.Option(
            "--started-after", help="Only those since, as RFC 3339.", callback=check_moment
        ),
    ] = None,
    order: Annotated[Order, typer.Option("--order", "-o", help="By start.")] = Order.DESC,
    limit: Annotated[
        int, typer.Option("--limit", "-l", min=0, help="How many at most; 0 for all.")
    ] = 1000,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """List sandboxes."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    every = api.list(
        state=state,
        metadata=encode_metadata(metadata),
        template=template,
        startedAfter=started_after,
        order=order.value,
    )
    found = list(itertools.islice(every, limit or None))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("no sandboxes")
        return
    rows = [
        (
            each["sandboxID"],
            each.get("alias") or each["templateID"],
            each["state"],
            format_time(each["startedAt"]),
            format_time(each["endAt"]),
            format_pairs(each.get("metadata")),
        )
        for each in found
    ]
    print_table(_COLUMNS, rows)
    if next(every, None) is not None:
        typer.echo(f"the first {limit}; --limit 0 shows all")


def info(
    sandbox_id: SandboxId,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show all that is known of a sandbox."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    found = api.call("GET", "sandboxes", sandbox_id)
    if as_json:
        print_json(found)
        return
    shown = {name: value for name, value in found.items() if name not in _SECRETS}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        typer.echo(f"{clean(name):{width}}  {clean(text)}")
