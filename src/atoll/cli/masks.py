"""Tables of secrets, by their masks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_PIPE_WIDTH = 10_000


def print_masks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first two columns, the id and the mask, are never cut or broken."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    whole = [
        Column(name, no_wrap=True, min_width=max([len(name), *(len(row[place]) for row in rows)]))
        for place, name in enumerate(columns[:2])
    ]
    rest = [Column(name, overflow="fold") for name in columns[2:]]
    table = Table(*whole, *rest, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    # Into a pipe, a line is as long as it is.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    console.print(table, crop=False)
