"""Options that choose among sandboxes, looked at before a server is asked."""

from __future__ import annotations

from datetime import datetime

import typer

_STATES = ("running", "paused")


def check_states(given: str | None) -> str | None:
    """States with commas. Raises `typer.BadParameter`."""
    for each in given.split(",") if given is not None else ():
        if each not in _STATES:
            raise typer.BadParameter(f"{each!r} is neither running nor paused")
    return given


def check_moment(given: str | None) -> str | None:
    """A moment in RFC 3339. Raises `typer.BadParameter`."""
    if given is not None:
        try:
            zone = datetime.fromisoformat(given).tzinfo
        except ValueError:
            zone = None
        if zone is None:
            raise typer.BadParameter(f"{given!r} is no moment such as 2026-01-31T12:00:00Z")
    return given
