"""The one table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measurement beside its peer or floor."""

    what: str
    measured: str
    peer: str
    """What the same run measured for comparison."""
    ratio: float | None
    """Ours divided by theirs (time), or ours divided by theirs (throughput), see `what`."""
    bar: str = ""
    met: bool | None = None


def print_rows(rows: list[Row], output: Path | None) -> None:
    """Show the rows; write them as JSON too when asked."""
    table = Table("what", "measured", "peer or floor, same run", "ratio", "bar", "met")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "NO")
        table.add_row(row.what, row.measured, row.peer, ratio, row.bar, met)
    Console(width=180).print(table)
    if output is not None:
        output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
