"""`atoll template push` and `pull`: templates travel between machines, as container images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.api import ControlPlane
from atoll.cli.options import DataDir
from atoll.cli.target import locate_target
from atoll.cli.template.client import TemplateBuild, format_entry
from atoll.errors import InvalidInput

if TYPE_CHECKING:
    from atoll.settings import Settings
    from atoll.templates.images.library import Image, ImageLibrary
    from atoll.templates.images.reference import LocalReference, RegistryReference
    from atoll.templates.images.skopeo import Access

Team = Annotated[str, typer.Option("--team", help="Whose template it is.")]
AuthFile = Annotated[
    Path | None,
    typer.Option(
        "--authfile",
        help="Accounts at registries.",
        show_default="what `docker login` or `skopeo login` has written",
    ),
]

_ARCHIVE = ".tar"
_LOGINS = (
    "~/.docker/config.json",
    "~/.config/containers/auth.json",
    "/run/containers/0/auth.json",
)


def push(
    name: Annotated[str, typer.Argument(help="The template: its id, name or name:tag.")],
    destination: Annotated[
        str,
        typer.Argument(
            help="A registry and name (registry.example.com/team/name:tag), or a file (name.tar)."
        ),
    ],
    team: Team = "default",
    authfile: AuthFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write a whole template to a registry, or into one file, as a container image."""
    import uvloop

    from atoll.settings import load_settings

    target = _read_destination(destination)
    uvloop.run(_push(load_settings(data_dir=data_dir), team, name, target, _access(authfile)))
    typer.echo(f"{name} is in {destination}")


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A registry and name, a file that push or `docker save` has written,"
            " or a directory that is an OCI layout."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="The template.", show_default="what it was called"),
    ] = None,
    authfile: AuthFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a template of what push has written, or of any container image."""
    import uvloop

    from atoll.settings import load_settings
    from atoll.templates.images.packing import read_label
    from atoll.templates.images.reference import find_local, parse_reference
    from atoll.templates.recipe import FromImage, Recipe, Stage

    api = ControlPlane(locate_target(data_dir, None, None))
    reference = find_local(source) or parse_reference(source)
    settings = load_settings(data_dir=data_dir)
    image = uvloop.run(_load(settings, reference, _access(authfile)))
    label = read_label(image.config)
    chosen = name or (label.name if label else "")
    if not chosen:
        raise InvalidInput(
            "the image was made from no template: it has no name as one",
            remedy="give one with --name",
        )
    asked = TemplateBuild.request(
        api,
        chosen,
        cpu_count=label.cpu_count if label else None,
        memory_mb=label.memory_mb if label else None,
    )
    asked.start(Recipe((Stage(FromImage(image.digest)),)))
    for entry in asked.follow():
        typer.echo(format_entry(entry), err=True)
    typer.echo(f"{chosen} ({asked.template_id}) is ready")


def _read_destination(text: str) -> RegistryReference | LocalReference:
    from atoll.templates.images.reference import LocalReference, parse_reference

    if not text.endswith(_ARCHIVE):
        return parse_reference(text)
    path = Path(text).absolute()
    if path.exists():
        raise InvalidInput(f"{text} is there already", remedy="remove it, or name another")
    return LocalReference("oci-archive", path)


def _access(authfile: Path | None) -> Access:
    """The accounts that this user has at registries."""
    from atoll.templates.images.skopeo import Access

    if authfile is not None and not authfile.is_file():
        raise InvalidInput(f"{authfile} is no file")
    known = (Path(each).expanduser() for each in _LOGINS)
    return Access(authfile=authfile or next((each for each in known if each.is_file()), None))


async def _push(
    settings: Settings,
    team: str,
    name: str,
    target: RegistryReference | LocalReference,
    access: Access,
) -> None:
    from atoll.store.accounts import Accounts
    from atoll.store.database import Database
    from atoll.store.templates import TemplateStore
    from atoll.templates.catalog import TemplateCatalog
    from atoll.templates.service import TemplateService

    catalog = TemplateCatalog(settings.templates)
    await catalog.load()
    database = Database(settings.database)
    try:
        teams = Accounts(database).teams
        (team_id,) = await teams.find([team])
        service = TemplateService(catalog, TemplateStore(database), teams)
        template = await service.find(team_id, name)
    finally:
        database.close()
    await _open_library(settings).push(template, target, access=access, progress=_progress)


async def _load(
    settings: Settings, reference: RegistryReference | LocalReference, access: Access
) -> Image:
    library = _open_library(settings)
    return await library.load(reference, access=access, progress=_progress)


def _open_library(settings: Settings) -> ImageLibrary:
    from atoll.templates.images.library import ImageLibrary
    from atoll.templates.layers import LayerStore

    return ImageLibrary(
        settings.templates,
        LayerStore(settings.templates),
        max_image_mb=settings.max_image_mb,
        min_free_disk_mb=settings.min_free_disk_mb,
    )


def _progress(line: str) -> None:
    typer.echo(line, err=True)
