"""Templates that teams have built: whose they are, and which of their builds a tag names."""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from atoll.store.database import Database
from atoll.store.tables import (
    template_build_logs,
    template_builds,
    template_tags,
    templates,
)


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A template, whatever was built of it."""

    template_id: str
    team_id: str
    name: str
    """One of its team's templates has it."""
    public: bool
    """Whether other teams may use it."""
    created_at: float
    updated_at: float
    spawn_count: int
    last_spawned_at: float | None
    build_count: int = 0


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag, and the build that it names."""

    tag: str
    build_id: str
    created_at: float


class TemplateStore:
    """Keeps a row per template, and one per tag."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, team_id: str, name: str, template_id: str) -> TemplateRow:
        """The team's template of this name; a new one gets the id."""

        def work(connection: Connection) -> TemplateRow:
            found = _find(connection, templates.c.team_id == team_id, templates.c.name == name)
            if found is not None:
                return found
            now = time.time()
            row = {"template_id": template_id, "team_id": team_id, "name": name, "public": False}
            times = {"created_at": now, "updated_at": now, "spawn_count": 0}
            connection.execute(insert(templates).values(**row, **times))
            return TemplateRow(template_id, team_id, name, False, now, now, 0, None)

        return await self._database.run(work)

    async def get(self, template_id: str) -> TemplateRow | None:
        """One template, of whatever team."""
        return await self._database.run(
            lambda connection: _find(connection, templates.c.template_id == template_id)
        )

    async def find(self, team_id: str, name: str) -> TemplateRow | None:
        """The team's template of this name."""
        return await self._database.run(
            lambda connection: _find(
                connection, templates.c.team_id == team_id, templates.c.name == name
            )
        )

    async def list(self, team_id: str) -> builtins.list[TemplateRow]:
        """All templates of a team, the newest first."""
        query = _counted().where(templates.c.team_id == team_id)
        query = query.order_by(templates.c.created_at.desc())
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [_load(row) for row in rows]

    async def set_public(self, template_id: str, public: bool) -> None:
        """Let other teams use it, or no more."""
        values = {"public": public, "updated_at": time.time()}
        await self._update(template_id, values)

    async def count_spawn(self, template_id: str) -> None:
        """Remember that a sandbox was made from it."""
        count = templates.c.spawn_count + 1
        await self._update(template_id, {"spawn_count": count, "last_spawned_at": time.time()})

    async def _update(self, template_id: str, values: Mapping[str, Any]) -> None:
        statement = update(templates).where(templates.c.template_id == template_id)
        await self._database.run(lambda connection: connection.execute(statement.values(values)))

    async def remove(self, template_id: str) -> None:
        """Forget a template with its builds, tags and logs."""

        def work(connection: Connection) -> None:
            of_template = template_builds.c.template_id == template_id
            builds = select(template_builds.c.build_id).where(of_template)
            logs = template_build_logs.c.build_id.in_(builds)
            connection.execute(delete(template_build_logs).where(logs))
            tags = template_tags.c.template_id == template_id
            connection.execute(delete(template_tags).where(tags))
            connection.execute(delete(template_builds).where(of_template))
            connection.execute(delete(templates).where(templates.c.template_id == template_id))

        await self._database.run(work)

    # -- tags --------------------------------------------------------------------------------

    async def tags(self, template_id: str) -> builtins.list[TagRow]:
        """All tags of a template, the newest first."""
        query = select(template_tags).where(template_tags.c.template_id == template_id)
        query = query.order_by(template_tags.c.created_at.desc(), template_tags.c.tag)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [TagRow(row.tag, row.build_id, row.created_at) for row in rows]

    async def set_tags(self, template_id: str, build_id: str, tags: Sequence[str]) -> None:
        """Let tags name a build from now on, whatever they named before."""
        await self._database.run(
            lambda connection: assign_tags(connection, template_id, build_id, tags)
        )

    async def remove_tags(self, template_id: str, tags: Sequence[str]) -> int:
        """Forget tags; returns how many there were."""
        statement = delete(template_tags).where(
            template_tags.c.template_id == template_id, template_tags.c.tag.in_(tags)
        )
        return await self._database.run(lambda connection: connection.execute(statement).rowcount)

    async def resolve(self, template_id: str, tag: str) -> Mapping[str, Any] | None:
        """The template, as it was dumped, in the build that a tag names."""
        query = (
            select(template_builds.c.record)
            .join(template_tags, template_tags.c.build_id == template_builds.c.build_id)
            .where(template_tags.c.template_id == template_id, template_tags.c.tag == tag)
        )
        record: Mapping[str, Any] | None = await self._database.run(lambda c: c.scalar(query))
        return record

    async def standing(self) -> builtins.list[Mapping[str, Any]]:
        """The templates of all builds that a tag names."""
        query = select(template_builds.c.record).where(
            template_builds.c.build_id.in_(select(template_tags.c.build_id))
        )
        rows = await self._database.run(lambda connection: connection.scalars(query).all())
        return [row for row in rows if row is not None]


def assign_tags(
    connection: Connection, template_id: str, build_id: str, tags: Sequence[str]
) -> None:
    """Let tags name a build, within a transaction."""
    of_template = template_tags.c.template_id == template_id
    connection.execute(delete(template_tags).where(of_template, template_tags.c.tag.in_(tags)))
    now = time.time()
    for tag in tags:
        row = {"template_id": template_id, "tag": tag, "build_id": build_id, "created_at": now}
        connection.execute(insert(template_tags).values(row))


def _counted() -> Any:
    count = select(func.count()).where(template_builds.c.template_id == templates.c.template_id)
    return select(templates, count.scalar_subquery().label("build_count"))


def _find(connection: Connection, *conditions: Any) -> TemplateRow | None:
    row = connection.execute(_counted().where(*conditions)).first()
    return None if row is None else _load(row)


def _load(row: Row[Any]) -> TemplateRow:
    return TemplateRow(
        row.template_id,
        row.team_id,
        row.name,
        row.public,
        row.created_at,
        row.updated_at,
        row.spawn_count,
        row.last_spawned_at,
        row.build_count,
    )
