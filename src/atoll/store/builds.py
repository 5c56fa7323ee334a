"""Builds of templates: where they stand, and what they have said."""

from __future__ import annotations

import builtins
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from atoll.store.database import Database
from atoll.store.tables import template_build_logs, template_builds, template_tags, templates
from atoll.store.templates import assign_tags

WAITING, BUILDING, READY, ERROR = "waiting", "building", "ready", "error"


@dataclass(frozen=True, slots=True)
class BuildRow:
    """One build of a template."""

    build_id: str
    template_id: str
    status: str
    created_at: float
    updated_at: float
    finished_at: float | None
    tags: Sequence[str]
    """What names it once it is ready."""
    resources: Mapping[str, int]
    failure: Mapping[str, str] | None
    """`message` and `step` of one that failed."""


@dataclass(frozen=True, slots=True)
class BuildLine:
    """Something that a build has said."""

    build_id: str
    number: int
    """Counts from 0."""
    at: float
    level: int
    step: str
    message: str


class BuildStore:
    """Keeps a row per build, and one per line of its log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        build_id: str,
        template_id: str,
        *,
        tags: Sequence[str],
        resources: Mapping[str, int],
    ) -> None:
        """Add a build that waits for its recipe."""
        now = time.time()
        row = {"build_id": build_id, "template_id": template_id, "status": WAITING}
        rest = {"created_at": now, "updated_at": now, "tags": list(tags)}
        statement = insert(template_builds).values(**row, **rest, resources=dict(resources))
        await self._database.run(lambda connection: connection.execute(statement))

    async def get(self, template_id: str, build_id: str) -> BuildRow | None:
        """One build of a template."""
        query = select(template_builds).where(
            template_builds.c.template_id == template_id, template_builds.c.build_id == build_id
        )
        row = await self._database.run(lambda connection: connection.execute(query).first())
        return None if row is None else _load(row)

    async def list(self, template_id: str) -> builtins.list[BuildRow]:
        """All builds of a template, the newest first."""
        query = select(template_builds).where(template_builds.c.template_id == template_id)
        query = query.order_by(template_builds.c.created_at.desc(), template_builds.c.build_id)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [_load(row) for row in rows]

    async def begin(self, build_id: str) -> bool:
        """Note that a build is under way; False when it is not waiting (any more)."""
        statement = (
            update(template_builds)
            .where(template_builds.c.build_id == build_id, template_builds.c.status == WAITING)
            .values(status=BUILDING, updated_at=time.time())
        )
        changed = await self._database.run(lambda connection: connection.execute(statement))
        return changed.rowcount == 1

    async def finish(self, build: BuildRow, record: Mapping[str, Any]) -> None:
        """Note what a build has become; its tags name it from now on."""
        now = time.time()
        values = {"status": READY, "updated_at": now, "finished_at": now, "record": dict(record)}

        def work(connection: Connection) -> None:
            of_build = template_builds.c.build_id == build.build_id
            connection.execute(update(template_builds).where(of_build).values(values))
            assign_tags(connection, build.template_id, build.build_id, build.tags)
            of_template = templates.c.template_id == build.template_id
            connection.execute(update(templates).where(of_template).values(updated_at=now))

        await self._database.run(work)

    async def fail(self, build_id: str, message: str, step: str) -> None:
        """Note why a build failed."""
        now = time.time()
        values = {"status": ERROR, "updated_at": now, "finished_at": now}
        failure = {"message": message, "step": step}
        statement = update(template_builds).where(template_builds.c.build_id == build_id)
        statement = statement.values(**values, failure=failure)
        await self._database.run(lambda connection: connection.execute(statement))

    async def fail_unfinished(self, message: str) -> None:
        """Note that the builds that were under way when the server ended have failed."""
        now = time.time()
        statement = (
            update(template_builds)
            .where(template_builds.c.status == BUILDING)
            .values(
                status=ERROR,
                updated_at=now,
                finished_at=now,
                failure={"message": message, "step": ""},
            )
        )
        await self._database.run(lambda connection: connection.execute(statement))

    async def prune(self, *, before: float) -> int:
        """Forget builds, with their logs, that ended before then and that no tag names.

        Returns how many there were.
        """
        old = select(template_builds.c.build_id).where(
            template_builds.c.updated_at < before,
            template_builds.c.status != BUILDING,
            template_builds.c.build_id.not_in(select(template_tags.c.build_id)),
        )

        def work(connection: Connection) -> int:
            logs = template_build_logs.c.build_id.in_(old)
            connection.execute(delete(template_build_logs).where(logs))
            forgotten = template_builds.c.build_id.in_(old)
            return connection.execute(delete(template_builds).where(forgotten)).rowcount

        return await self._database.run(work)

    async def write_lines(self, lines: Sequence[BuildLine]) -> None:
        """Add to logs."""
        rows = [
            {
                "build_id": line.build_id,
                "number": line.number,
                "at": line.at,
                "level": line.level,
                "step": line.step,
                "message": line.message,
            }
            for line in lines
        ]
        await self._database.run(lambda c: c.execute(insert(template_build_logs), rows))

    async def read_lines(
        self, build_id: str, *, offset: int, limit: int, level: int
    ) -> builtins.list[BuildLine]:
        """A part of a log, from the line `offset` of those of that level or above."""
        query = (
            select(template_build_logs)
            .where(template_build_logs.c.build_id == build_id)
            .where(template_build_logs.c.level >= level)
            .order_by(template_build_logs.c.number)
            .offset(offset)
            .limit(limit)
        )
        return await self._read(query)

    async def read_since(
        self, build_id: str, *, moment: float | None, limit: int, level: int, backward: bool
    ) -> builtins.list[BuildLine]:
        """A part of a log from a moment on, or back from it."""
        columns = template_build_logs.c
        query = select(template_build_logs).where(columns.build_id == build_id)
        query = query.where(columns.level >= level).limit(limit)
        if moment is not None:
            query = query.where(columns.at <= moment if backward else columns.at >= moment)
        order = columns.number.desc() if backward else columns.number
        return await self._read(query.order_by(order))

    async def _read(self, query: Any) -> builtins.list[BuildLine]:
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return [
            BuildLine(row.build_id, row.number, row.at, row.level, row.step, row.message)
            for row in rows
        ]


def _load(row: Row[Any]) -> BuildRow:
    return BuildRow(
        row.build_id,
        row.template_id,
        row.status,
        row.created_at,
        row.updated_at,
        row.finished_at,
        row.tags,
        row.resources,
        row.failure,
    )
