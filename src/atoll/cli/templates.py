"""`atoll template`: the templates that sandboxes are made from."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.options import DataDir, Json
from atoll.errors import InvalidInput
from atoll.templates.catalog import BUILT_IN, TemplateCatalog

if TYPE_CHECKING:
    from atoll.settings import Settings

app = typer.Typer(help="Build and list templates.", no_args_is_help=True)


@app.command("build")
def build(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {' and '.join(BUILT_IN)}. Default: all.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Build templates that come with Atoll, unless they are there and still right.

    A server that is running offers what was built from then on.
    """
    wanted = names or list(BUILT_IN)
    for name in wanted:
        if name not in BUILT_IN:
            raise InvalidInput(
                f"{name!r} is not a template that comes with Atoll",
                remedy=f"choose of {', '.join(BUILT_IN)}",
            )
    import uvloop

    from atoll.logs import configure_logs
    from atoll.settings import load_settings

    configure_logs("text")
    uvloop.run(_build(load_settings(data_dir=data_dir), wanted))


async def _build(settings: Settings, names: list[str]) -> None:
    from atoll.server import open_build_driver
    from atoll.templates import interpreter

    catalog = TemplateCatalog(settings.templates)
    await catalog.ensure_base(
        progress=typer.echo, authorities=[Path(each) for each in settings.authorities]
    )
    if interpreter.NAME in names:
        await catalog.ensure_interpreter(
            functools.partial(open_build_driver, settings), progress=typer.echo
        )


@app.command("list")
def list_templates(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the templates that are built."""
    import uvloop

    from atoll.settings import load_settings

    catalog = TemplateCatalog(load_settings(data_dir=data_dir).templates)
    uvloop.run(catalog.load())
    if as_json:
        rows = [
            {
                "template_id": each.template_id,
                "names": each.names,
                "build_id": each.build_id,
                "created_at": each.created_at.isoformat(),
                "cpu_count": each.resources.cpu_count,
                "memory_mb": each.resources.memory_mb,
                "disk_mb": each.resources.disk_mb,
            }
            for each in catalog.list()
        ]
        typer.echo(json.dumps(rows))
        return
    for each in catalog.list():
        built = each.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        typer.echo(f"{each.template_id}  {built}  {', '.join(each.names)}")
