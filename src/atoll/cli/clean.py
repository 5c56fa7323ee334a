"""`atoll clean`: remove every trace of a server from the machine."""

from __future__ import annotations

import contextlib
import functools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.options import DataDir
from atoll.errors import ConfigurationError

if TYPE_CHECKING:
    from atoll.settings import Settings

# Nothing but what Atoll has made is ever removed; `atoll.toml` is the owner's, and stays.
_FILES = (
    *("atoll.db", "atoll.db-shm", "atoll.db-wal", "atoll.db-journal"),
    *("local.key", "server.json", "server.new", "server.lock", "volumes.key"),
)
_DIRECTORIES = ("isolation", "agent", "uploads")
_TLS = "tls"
_TLS_FILES = ("authority.pem", "authority.key", "trust.pem", "server.pem", "server.key")
_MARK = "atoll.db"
_SETTINGS = "atoll.toml"


def clean(
    data_dir: DataDir = None,
    templates: Annotated[
        bool, typer.Option("--templates", help="Remove the built templates as well.")
    ] = False,
) -> None:
    """End all sandboxes and remove all state; built templates stay, unless --templates."""
    import uvloop

    from atoll.server import lock_data_dir
    from atoll.settings import load_settings
    from atoll.templates.catalog import BUILT_IN
    from atoll.templates.images.library import IMAGES
    from atoll.templates.layers import LAYERS

    settings = load_settings(data_dir=data_dir)
    directory = settings.data_dir
    begun = directory.exists() and any(directory.iterdir())
    stored = directory == settings.templates.parent and is_store(settings.templates)
    if begun and not stored and not _is_data_dir(directory):
        raise ConfigurationError(
            f"{directory} is not a data directory of Atoll: nothing was removed",
            remedy="name the directory that the server was started with: --data-dir",
        )
    if is_store(settings.templates):
        uvloop.run(_end_builds(settings))
        if templates:
            for name in (*BUILT_IN, LAYERS, IMAGES):
                shutil.rmtree(settings.templates / name, ignore_errors=True)
            typer.echo(f"removed the templates in {settings.templates}")
    if not begun or not _is_data_dir(directory):
        typer.echo(f"nothing to clean in {directory}" + (" but templates" if stored else ""))
        return
    with lock_data_dir(directory):
        if (directory / "isolation").is_dir():
            uvloop.run(_purge(settings))
        for name in _DIRECTORIES:
            shutil.rmtree(directory / name, ignore_errors=True)
        for name in _FILES:
            (directory / name).unlink(missing_ok=True)
        _remove_certificates(directory / _TLS)
    if not any(directory.iterdir()):
        directory.rmdir()
    typer.echo(f"cleaned {directory}")


def _is_data_dir(directory: Path) -> bool:
    """Whether a server or `atoll certs` has been at work here, for however short a time."""
    if (directory / _MARK).is_file() or (directory / "isolation").is_dir():
        return True
    # Of a refused start there is a lock, and certificates may have been made before the first one.
    begun = (directory / "server.lock").is_file() or (directory / _TLS / _TLS_FILES[0]).is_file()
    return begun and {each.name for each in directory.iterdir()} <= {*_FILES, _TLS, _SETTINGS}


def _remove_certificates(directory: Path) -> None:
    for name in _TLS_FILES:
        (directory / name).unlink(missing_ok=True)
        (directory / f"{name}.new").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody keeps his own there as well, or there is none
        directory.rmdir()


def is_store(templates: Path) -> bool:
    """Whether a directory holds built templates: builds are named by a digest."""
    base = templates / "base"
    return base.is_dir() and all(
        entry.name.startswith(".") or len(entry.name) == 20 or entry.is_file()
        for entry in base.iterdir()
    )


async def _end_builds(settings: Settings) -> None:
    from atoll.parts import open_build_driver
    from atoll.templates.catalog import TemplateCatalog

    catalog = TemplateCatalog(settings.templates)
    await catalog.tidy(functools.partial(open_build_driver, settings))


async def _purge(settings: Settings) -> None:
    from atoll.parts import build_driver

    await build_driver(settings).purge()
