"""`atoll doctor`: what does this machine lack?"""

from __future__ import annotations

import typer

from atoll.cli.options import DataDir


def doctor(data_dir: DataDir = None) -> None:
    """Check the machine, boot a real sandbox, and print a FIX: line for every problem."""
    from atoll.cli.examination import examine

    if not examine(data_dir):
        raise typer.Exit(1)
