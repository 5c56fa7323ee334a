"""Templates as teams see them: names, tags, who may use what."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.errors import Forbidden, InvalidInput, NotFound, TemplateNotFound
from atoll.store.teams import TeamStore
from atoll.store.templates import TagRow, TemplateRow, TemplateStore
from atoll.templates.catalog import TemplateCatalog
from atoll.templates.model import Template, derive_id, load_template
from atoll.templates.names import DEFAULT_TAG, Reference, check_tags, parse_reference


@dataclass(frozen=True, slots=True)
class Ownership:
    """A template, and whether whoever asked owns it."""

    template_id: str
    public: bool
    owned: bool


class TemplateService:
    """The templates that come with Atoll, and those that teams have built.

    A name means, in this order: a template that comes with Atoll, one of the asker's own team. What
    another team has made public is reached by its id, or as `team/name`.
    """

    def __init__(self, catalog: TemplateCatalog, store: TemplateStore, teams: TeamStore) -> None:
        self.catalog = catalog
        self._store = store
        self._teams = teams
        self._spawns: set[asyncio.Task[None]] = set()

    # -- for sandboxes -----------------------------------------------------------------------

    async def find(self, team_id: str, ref: str) -> Template:
        """The template that a team means by this. Raises `TemplateNotFound`."""
        try:
            wanted = parse_reference(ref)
        except InvalidInput:
            raise TemplateNotFound(ref) from None
        if wanted.team is None and wanted.tag in (None, DEFAULT_TAG):
            built_in = self.catalog.find(wanted.name)
            if built_in is not None:
                return built_in
        row = await self._find_row(team_id, wanted)
        if row is None:
            raise TemplateNotFound(ref, remedy=self.catalog.remedy(wanted.name))
        tag = wanted.tag or DEFAULT_TAG
        record = await self._store.resolve(row.template_id, tag)
        if record is None:
            raise TemplateNotFound(ref, remedy=f"no build of it is ready under the tag {tag!r}")
        template = load_template(record)
        if not await asyncio.to_thread(_has_layers, template):
            raise TemplateNotFound(ref, remedy="its layers are gone; build it again")
        return template

    def count_spawn(self, template: Template) -> None:
        """Remember that a sandbox was made from it, some time."""
        if self.catalog.find(template.template_id) is None:
            task = asyncio.create_task(self._store.count_spawn(template.template_id))
            self._spawns.add(task)
            task.add_done_callback(self._spawns.discard)

    async def stop(self) -> None:
        """Wait until everything is written down."""
        await asyncio.gather(*self._spawns, return_exceptions=True)

    # -- for builds --------------------------------------------------------------------------

    async def claim(self, team_id: str, name: str) -> TemplateRow:
        """The team's template of this name, new or not. Raises `Forbidden`, `InvalidInput`."""
        wanted = parse_reference(name)
        if wanted.team is not None and wanted.team != await self._team_name(team_id):
            raise Forbidden(f"templates of the team {wanted.team!r} are not yours to build")
        if self.catalog.is_reserved(wanted.name):
            raise Forbidden(
                f"the name {wanted.name!r} is taken by a template that comes with Atoll",
                remedy="choose another",
            )
        return await self._store.ensure(team_id, wanted.name, derive_id(f"{team_id}/{wanted.name}"))

    # -- for their owners --------------------------------------------------------------------

    async def own(self, team_id: str, ref: str) -> TemplateRow:
        """A template of the team, by id or name. Raises `TemplateNotFound`, `Forbidden`."""
        wanted = parse_reference(ref)
        row = await self._find_row(team_id, wanted)
        if row is None:
            if self.catalog.is_reserved(wanted.name):
                raise Forbidden(f"the template {ref!r} comes with Atoll; it is not yours to change")
            raise TemplateNotFound(ref)
        if row.team_id != team_id:
            raise Forbidden(f"the template {ref!r} belongs to another team")
        return row

    async def list(self, team_id: str) -> builtins.list[TemplateRow]:
        """The team's templates, the newest first."""
        return await self._store.list(team_id)

    async def names(self, row: TemplateRow) -> builtins.list[str]:
        """What a template is called in full."""
        return [f"{await self._team_name(row.team_id)}/{row.name}"]

    async def locate(self, team_id: str, ref: str) -> Ownership:
        """Whether a name is taken, and by whom. Raises `TemplateNotFound`, `Forbidden`."""
        wanted = parse_reference(ref)
        built_in = self.catalog.find(wanted.name) if wanted.team is None else None
        if built_in is not None:
            return Ownership(built_in.template_id, public=True, owned=False)
        row = await self._find_row(team_id, wanted)
        if row is None or not await self._has_tag(row, wanted.tag):
            raise TemplateNotFound(ref)
        return Ownership(row.template_id, row.public, row.team_id == team_id)

    async def set_public(self, row: TemplateRow, public: bool) -> None:
        """Let other teams use it, or no more."""
        await self._store.set_public(row.template_id, public)

    async def remove(self, row: TemplateRow) -> None:
        """Forget a template. Sandboxes that run stay; its layers go when nothing needs them."""
        await self._store.remove(row.template_id)

    async def tags(self, team_id: str, ref: str) -> builtins.list[TagRow]:
        """The tags of a template of the team. Raises as `own` does."""
        return await self._store.tags((await self.own(team_id, ref)).template_id)

    async def assign_tags(self, team_id: str, target: str, tags: Sequence[str]) -> str:
        """Give the build that `name:tag` means more tags; returns its id.

        Raises as `own` does, `InvalidInput`, and `NotFound` for an unknown tag.
        """
        wanted = parse_reference(target)
        if not tags:
            raise InvalidInput("at least one tag is needed")
        chosen = check_tags(list(tags))
        row = await self.own(team_id, target)
        source = wanted.tag or DEFAULT_TAG
        for tag in await self._store.tags(row.template_id):
            if tag.tag == source:
                await self._store.set_tags(row.template_id, tag.build_id, chosen)
                return tag.build_id
        raise NotFound(f"the template {row.name!r} has no tag {source!r}")

    async def remove_tags(self, team_id: str, name: str, tags: Sequence[str]) -> None:
        """Forget tags. Raises as `own` does, and `NotFound` when it has none of them."""
        row = await self.own(team_id, name)
        chosen = check_tags(list(tags))
        if not await self._store.remove_tags(row.template_id, chosen):
            raise NotFound(f"the template {row.name!r} has no tag {', '.join(chosen)}")

    async def standing(self) -> builtins.list[Template]:
        """The templates of all builds that a tag names."""
        return [template for record in await self._store.standing() if (template := _read(record))]

    # ----------------------------------------------------------------------------------------

    async def _find_row(self, team_id: str, wanted: Reference) -> TemplateRow | None:
        """What the team may see under a name or an id."""
        if wanted.team is None:
            row = await self._store.find(team_id, wanted.name)
            row = row or await self._store.get(wanted.name)
        else:
            row = await self._find_of_team(wanted.team, wanted.name)
        if row is None or not (row.public or row.team_id == team_id):
            return None
        return row

    async def _has_tag(self, row: TemplateRow, tag: str | None) -> bool:
        return tag is None or any(t.tag == tag for t in await self._store.tags(row.template_id))

    async def _find_of_team(self, team: str, name: str) -> TemplateRow | None:
        try:
            (owner,) = await self._teams.find([team])
        except NotFound:
            return None
        return await self._store.find(owner, name)

    async def _team_name(self, team_id: str) -> str:
        return next((t.name for t in await self._teams.list() if t.team_id == team_id), team_id)


def _has_layers(template: Template) -> bool:
    return all(layer.is_dir() for layer in template.layers)


def _read(record: Mapping[str, Any]) -> Template | None:
    try:
        return load_template(record)
    except (KeyError, TypeError):
        return None
