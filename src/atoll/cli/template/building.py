"""`atoll template build`: a template from a Dockerfile, and those that come with Atoll."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir, Json
from atoll.cli.pairs import parse_pairs
from atoll.cli.printing import print_json
from atoll.cli.target import ApiKey, ApiUrl, locate_target
from atoll.cli.template.client import TemplateBuild, format_entry, is_template
from atoll.errors import InvalidInput

if TYPE_CHECKING:
    from atoll.settings import Settings
    from atoll.templates.dockerfile.translation import Translation
    from atoll.templates.project import Project
    from atoll.templates.recipe import Recipe


def build(
    built_in: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BUILT-IN]...", help="Templates that come with Atoll, instead."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="The template.", show_default="that of e2b.toml"),
    ] = None,
    path: Annotated[
        Path, typer.Option("--path", "-p", help="The directory that COPY takes files from.")
    ] = Path(),
    config: Annotated[
        Path | None, typer.Option("--config", help="Another file than e2b.toml.")
    ] = None,
    dockerfile: Annotated[
        Path | None, typer.Option("--dockerfile", "-d", help="Another file than e2b.Dockerfile.")
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option("--build-arg", metavar="NAME=VALUE", help="For an ARG; may be repeated."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--target", help="The stage to stop at.", show_default="the last")
    ] = None,
    start_command: Annotated[
        str | None, typer.Option("--cmd", "-c", help="What every sandbox runs from its start.")
    ] = None,
    ready_command: Annotated[
        str | None, typer.Option("--ready-cmd", help="Succeeds once that is ready.")
    ] = None,
    cpu_count: Annotated[
        int | None, typer.Option("--cpu-count", min=1, help="Processors.", show_default="2")
    ] = None,
    memory_mb: Annotated[
        int | None, typer.Option("--memory-mb", min=128, help="Memory.", show_default="1024")
    ] = None,
    authfile: Annotated[
        Path | None,
        typer.Option(
            help="Accounts at registries.", show_default="~/.docker/config.json, if it is there"
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do every step anew.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Build the template of this directory on the server that runs, or the built-in ones named.

    The directory has an e2b.Dockerfile or Dockerfile, and best an e2b.toml.
    """
    if built_in:
        _build_built_in(built_in, data_dir)
        return
    from atoll.templates.project import read_project

    project = read_project(path, config=config, dockerfile=dockerfile)
    chosen = name or project.name
    if chosen is None:
        raise InvalidInput("the template has no name", remedy="give one with --name")
    began = time.monotonic()
    api = ControlPlane(locate_target(data_dir, api_url, api_key))
    translation = _translate(api, project, parse_pairs(build_arg), stage, authfile)
    recipe = _complete(translation, project, start_command, ready_command, no_cache=no_cache)
    asked = TemplateBuild.request(
        api,
        chosen,
        cpu_count=cpu_count or project.cpu_count,
        memory_mb=memory_mb or project.memory_mb,
    )
    asked.send(translation.archives, functools.partial(typer.echo, err=True))
    asked.start(recipe)
    try:
        for entry in asked.follow():
            typer.echo(format_entry(entry), err=True)
    except KeyboardInterrupt:
        typer.echo(f"\nthe build goes on: atoll template logs {chosen} --follow", err=True)
        raise
    seconds = time.monotonic() - began
    if as_json:
        print_json(
            {"template_id": asked.template_id, "build_id": asked.build_id, "name": chosen}
            | {"seconds": round(seconds, 3)}
        )
    else:
        typer.echo(f"{chosen} ({asked.template_id}) is ready after {seconds:.1f} s")


def _translate(
    api: ControlPlane,
    project: Project,
    build_args: dict[str, str],
    stage: str | None,
    authfile: Path | None,
) -> Translation:
    from atoll.templates.dockerfile.accounts import Accounts
    from atoll.templates.dockerfile.context import Context, read_ignored
    from atoll.templates.dockerfile.syntax import parse_dockerfile
    from atoll.templates.dockerfile.translation import translate

    try:
        text = project.dockerfile.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{project.dockerfile} can't be read: {error}") from None
    translation = translate(
        parse_dockerfile(text, project.dockerfile.name),
        Context(project.root, read_ignored(project.root, project.dockerfile)),
        build_args=build_args,
        is_template=functools.partial(is_template, api),
        find_account=Accounts(authfile).find,
        target=stage,
    )
    for unused in sorted(translation.unused_args):
        typer.echo(f"no ARG takes the build argument {unused}", err=True)
    return translation


def _complete(
    translation: Translation,
    project: Project,
    start_command: str | None,
    ready_command: str | None,
    *,
    no_cache: bool,
) -> Recipe:
    """The recipe with what stands above the Dockerfile: e2b.toml, and above that the options."""
    recipe = translation.recipe
    start = start_command or project.start_command
    ready = ready_command or project.ready_command
    if start is None:
        ready = ready or recipe.ready_command
    return dataclasses.replace(
        recipe,
        start_command=start or recipe.start_command,
        ready_command=ready,
        force=no_cache,
    )


def _build_built_in(names: list[str], data_dir: Path | None) -> None:
    import uvloop

    from atoll.logs import configure_logs
    from atoll.settings import load_settings
    from atoll.templates.catalog import BUILT_IN

    for name in names:
        if name not in BUILT_IN:
            raise InvalidInput(
                f"{name!r} is not a template that comes with Atoll",
                remedy=f"choose of {', '.join(BUILT_IN)}; --name names one of your own",
            )
    configure_logs("text")
    uvloop.run(_ensure(load_settings(data_dir=data_dir), names))


async def _ensure(settings: Settings, names: list[str]) -> None:
    from atoll.parts import open_build_driver
    from atoll.templates import interpreter
    from atoll.templates.catalog import TemplateCatalog

    catalog = TemplateCatalog(settings.templates)
    await catalog.ensure_base(
        progress=typer.echo, authorities=[Path(each) for each in settings.authorities]
    )
    if interpreter.NAME in names:
        await catalog.ensure_interpreter(
            functools.partial(open_build_driver, settings), progress=typer.echo
        )
