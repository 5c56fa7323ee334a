"""Builds of templates: what of them is kept."""

from __future__ import annotations

import time
from pathlib import Path

from atoll.store.accounts import Accounts
from atoll.store.builds import BuildLine, BuildStore
from atoll.store.database import Database
from atoll.store.templates import TemplateStore


async def test_only_what_a_tag_names_is_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    builds, templates = BuildStore(database), TemplateStore(database)
    team = await Accounts(database).teams.ensure("a")
    row = await templates.ensure(team, "mine", "id")
    for build_id in ("older", "newer", "failed", "waiting", "going"):
        await builds.add(build_id, "id", tags=["default"], resources={})
        await builds.write_lines([BuildLine(build_id, 0, 0.0, 1, "", "said")])
    for build_id in ("older", "newer", "failed", "going"):
        assert await builds.begin(build_id)
    for build_id in ("older", "newer"):
        build = await builds.get("id", build_id)
        assert build is not None
        await builds.finish(build, {})
    await builds.fail("failed", "why", "1")

    assert await builds.prune(before=time.time() - 60) == 0
    assert await builds.prune(before=time.time() + 60) == 3
    assert {build.build_id for build in await builds.list("id")} == {"newer", "going"}
    for build_id, lines in (("newer", 1), ("older", 0)):
        assert len(await builds.read_lines(build_id, offset=0, limit=9, level=0)) == lines
    assert [tag.build_id for tag in await templates.tags(row.template_id)] == ["newer"]
    database.close()
