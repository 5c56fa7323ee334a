"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import typer

_PIPE_WIDTH = 10_000


def print_json(value: object) -> None:
    """One JSON document on a line."""
    typer.echo(json.dumps(value))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table; only its last column is ever broken."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    *most, last = columns
    table = Table(*(Column(each, no_wrap=True) for each in most), last, box=None, pad_edge=False)
    for row in rows:
        # What comes from a sandbox's owner is text, not markup and no control characters.
        table.add_row(*(Text(clean(cell)) for cell in row))
    # Into a pipe, a line is as long as it is.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)


def clean(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(each if each.isprintable() else "�" for each in text)


def format_time(text: str) -> str:
    """A moment of the API (RFC 3339) as a person on this machine reads it."""
    return parse_time(text).astimezone().strftime("%m-%d %H:%M:%S")


def parse_time(text: str) -> datetime:
    """A moment in RFC 3339; without a zone it is UTC. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_pairs(pairs: Mapping[str, Any] | None) -> str:
    """Metadata on one line."""
    return " ".join(f"{name}={value}" for name, value in (pairs or {}).items())
