"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where all state lives.", show_default="/var/lib/atoll"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
