"""`atoll sandbox logs` and `metrics`: what a sandbox has done, and does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.printing import clean, format_time, parse_time, print_json
from atoll.cli.sandbox.completion import SandboxId
from atoll.cli.target import ApiKey, ApiUrl, locate_target
from atoll.errors import NotFound

Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on until the sandbox has ended, or Ctrl-C.")
]

_PAGE = 1000
_POLL_SECONDS = 0.5
_MIB = 1 << 20


class Level(StrEnum):
    """How grave; those above are shown as well."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


def logs(
    sandbox_id: SandboxId,
    follow: Follow = False,
    level: Annotated[Level, typer.Option(help="The least grave to show.")] = Level.INFO,
    search: Annotated[str | None, typer.Option(help="Only messages that hold this.")] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show a sandbox's log; with --json one document per line."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))

    def fetch(since: int | None) -> list[dict[str, Any]]:
        query: dict[str, str | int | None] = {
            "cursor": since,
            "limit": _PAGE,
            "direction": "forward",
            "level": level.value,
            "search": search,
        }
        found: list[dict[str, Any]] = api.call(
            "GET", "v2", "sandboxes", sandbox_id, "logs", query=query
        )["logs"]
        return found

    def milliseconds(entry: dict[str, Any]) -> int:
        return int(parse_time(entry["timestamp"]).timestamp() * 1000)

    for entry in _watch(api, sandbox_id, fetch, milliseconds, follow=follow):
        if as_json:
            print_json(entry)
            continue
        fields = " ".join(f"{name}={value}" for name, value in entry.get("fields", {}).items())
        moment = format_time(entry["timestamp"])
        line = f"{moment}  {entry['level']:5}  {entry['message']}  {fields}"
        typer.echo(clean(line.rstrip()))


def metrics(
    sandbox_id: SandboxId,
    follow: Follow = False,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show a sandbox's use of processor, memory and disk; with --json one document per line."""
    api = ControlPlane(locate_target(data_dir, api_url, api_key))

    def fetch(since: int | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api.call(
            "GET", "sandboxes", sandbox_id, "metrics", query={"start": since}
        )
        return found

    def seconds(entry: dict[str, Any]) -> int:
        return int(entry["timestampUnix"])

    for entry in _watch(api, sandbox_id, fetch, seconds, follow=follow):
        if as_json:
            print_json(entry)
            continue
        used = [
            f"{name} {entry[f'{key}Used'] / _MIB:6.0f} / {entry[f'{key}Total'] / _MIB:.0f} MiB"
            for name, key in (("memory", "mem"), ("disk", "disk"))
        ]
        processor = f"CPU {entry['cpuUsedPct']:5.1f} % of {entry['cpuCount']}"
        typer.echo("  ".join([format_time(entry["timestamp"]), processor, *used]))


def _watch(
    api: ControlPlane,
    sandbox_id: str,
    fetch: Callable[[int | None], list[dict[str, Any]]],
    moment: Callable[[dict[str, Any]], int],
    *,
    follow: bool,
) -> Iterator[dict[str, Any]]:
    """Entries in order of time, each once. `fetch` gives those from a moment on, its own included,
    so the ones of the last moment seen come again and are left out."""
    since: int | None = None
    seen: list[dict[str, Any]] = []
    while True:
        # Asked first: what was said until the end is fetched after it.
        going_on = follow and _runs(api, sandbox_id)
        found = [entry for entry in fetch(since) if entry not in seen]
        yield from found
        if found:
            latest = max(map(moment, found))
            kept = seen if latest == since else []
            seen = [*kept, *(entry for entry in found if moment(entry) == latest)]
            since = latest
        if len(found) >= _PAGE // 2:
            continue  # There may be more already.
        if not going_on:
            return
        time.sleep(_POLL_SECONDS)


def _runs(api: ControlPlane, sandbox_id: str) -> bool:
    try:
        return bool(api.call("GET", "sandboxes", sandbox_id)["state"] == "running")
    except NotFound:
        return False
