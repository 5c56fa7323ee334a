"""`atoll clean`: remove every trace of a server from the machine."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer
import uvloop

from atoll.cli.options import DataDir
from atoll.server import build_driver, lock_data_dir
from atoll.settings import Settings, load_settings


def clean(
    data_dir: DataDir = None,
    templates: Annotated[
        bool, typer.Option("--templates", help="Remove the built templates as well.")
    ] = False,
) -> None:
    """End all sandboxes and remove all state; built templates stay, unless --templates."""
    settings = load_settings(data_dir=data_dir)
    if not settings.data_dir.exists():
        typer.echo(f"nothing to clean: {settings.data_dir} does not exist")
        return
    with lock_data_dir(settings.data_dir):
        uvloop.run(_purge(settings))
        for entry in settings.data_dir.iterdir():
            if entry == settings.templates and not templates:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    if not any(settings.data_dir.iterdir()):
        settings.data_dir.rmdir()
    typer.echo(f"cleaned {settings.data_dir}")


async def _purge(settings: Settings) -> None:
    await build_driver(settings).purge()
