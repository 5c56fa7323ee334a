"""Options of the form KEY=VALUE."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Metadata; may be repeated."),
]
Envs = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="KEY=VALUE", help="A variable; may be repeated."),
]


def parse_pairs(given: list[str] | None) -> dict[str, str]:
    """Split each at its first `=`. Raises `typer.BadParameter`."""
    pairs = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"{each!r} is not of the form KEY=VALUE")
        pairs[name] = value
    return pairs


def encode_metadata(given: list[str] | None) -> str | None:
    """A filter by metadata as the API takes it: encoded here, and once more with the query."""
    return urlencode(parse_pairs(given)) or None
