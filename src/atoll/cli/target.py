"""Which server a command means, and with which key."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from atoll.errors import HostError
from atoll.running import find_server, locate_data_dir

ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url", help="The server's address.", show_default="E2B_API_URL, or what runs here"
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help="The key.", show_default="E2B_API_KEY, or this machine's own"),
]


@dataclass(frozen=True, slots=True)
class Target:
    """A server as its client sees it."""

    api_url: str
    sandbox_url: str
    api_key: str
    trust: str = ""
    """A file with authorities to trust beyond the system's; empty for none."""


def locate_target(data_dir: Path | None, api_url: str | None, api_key: str | None) -> Target:
    """The server that the flags name, else the environment, else the one that runs here.

    Raises `HostError` when there is none, or no key for it.
    """
    url = api_url or (None if data_dir else os.environ.get("E2B_API_URL"))
    if url is None:
        directory = locate_data_dir(data_dir)
        server = find_server(directory)
        if server is None:
            raise HostError(
                f"no server runs on {directory}",
                remedy="start one with `atoll serve`, name its directory with --data-dir, or set "
                "E2B_API_URL and E2B_API_KEY",
            )
        return Target(server.url, server.url, api_key or server.api_key, server.trust)
    key = api_key or os.environ.get("E2B_API_KEY")
    if not key:
        raise HostError(
            f"there is no key for {url}", remedy="set E2B_API_KEY, or give one with --api-key"
        )
    # Of ours both are the same address; the variable is for those who know better.
    sandbox_url = url if api_url else os.environ.get("E2B_SANDBOX_URL", url)
    return Target(
        url.rstrip("/"), sandbox_url.rstrip("/"), key, os.environ.get("SSL_CERT_FILE", "")
    )
