"""Builds on disk: seen whole or not at all, made by one at a time, cleaned up after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atoll.templates import builds
from atoll.templates.builds import Build

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def make_build(directory: Path, name: str, *, days: int = 0) -> Build:
    return Build(
        directory=directory / name,
        recipe=f"recipe of {name}",
        build_id=f"id of {name}",
        created_at=MOMENT + timedelta(days=days),
        distribution_authorities=frozenset({"a", "b"}),
        extra_authorities=frozenset({"c"}),
        envs={"LANG": "C.UTF-8"},
    )


async def publish(directory: Path, name: str, *, days: int = 0) -> Build:
    build = make_build(directory, name, days=days)
    async with builds.building(directory) as aside:
        (aside / builds.ROOTFS).mkdir()
        (aside / builds.ROOTFS / "file").write_text(name)
        await builds.publish(build, aside)
    return build


async def test_a_published_build_is_read_as_it_was_and_nothing_else_is_left(
    tmp_path: Path,
) -> None:
    build = await publish(tmp_path, "one")
    assert builds.read_builds(tmp_path) == [build]
    assert (build.rootfs / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["one"]


async def test_the_newest_comes_first(tmp_path: Path) -> None:
    for days in (1, 3, 2):
        await publish(tmp_path, f"b{days}", days=days)
    assert [build.directory.name for build in builds.read_builds(tmp_path)] == ["b3", "b2", "b1"]


async def test_what_is_no_whole_build_is_passed_over_and_replaced(tmp_path: Path) -> None:
    for name, manifest in (
        ("empty", None),
        ("cut", '{"format": 1, "rec'),
        ("old", '{"format": 0}'),
    ):
        (tmp_path / name / builds.ROOTFS).mkdir(parents=True)
        if manifest is not None:
            (tmp_path / name / builds.MANIFEST).write_text(manifest)
    (tmp_path / "file").write_text("")
    assert builds.read_builds(tmp_path) == []
    assert builds.read_builds(tmp_path / "missing") == []
    build = await publish(tmp_path, "cut")
    assert builds.read_builds(tmp_path) == [build]


async def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    async def fail() -> None:
        async with builds.building(tmp_path) as aside:
            (aside / builds.ROOTFS).mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert os.listdir(tmp_path) == []


async def test_one_builds_while_the_others_wait(tmp_path: Path) -> None:
    waiting: list[str] = []
    order: list[str] = []

    async def build(name: str) -> None:
        async with builds.locked(tmp_path, on_wait=lambda: waiting.append(name)):
            order.append(f"{name} in")
            await asyncio.sleep(0.05)
            order.append(f"{name} out")

    await asyncio.gather(build("a"), build("b"))
    assert order == ["a in", "a out", "b in", "b out"]
    assert waiting == ["b"]


async def test_the_lock_holds_between_processes(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from atoll.templates import builds
async def main():
    async with builds.locked(Path({str(tmp_path)!r}), on_wait=lambda: None):
        print("locked", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        leftover = tmp_path / ".building-x"
        leftover.mkdir()
        builds.try_tidy(tmp_path)
        assert leftover.exists(), "a build under way was removed"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                async with builds.locked(tmp_path, on_wait=lambda: None):
                    pytest.fail("two hold the lock")
        other.stdin.close()
    builds.try_tidy(tmp_path)
    assert not leftover.exists()


def test_what_is_mounted_in_a_leftover_is_detached_not_emptied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "precious").write_text("")
    leftover = tmp_path / ".building-dead"
    inner = leftover / "root fs" / "proc"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(source), str(inner)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True)
    builds.try_tidy(tmp_path)
    assert not leftover.exists()
    assert (source / "precious").exists()
    assert str(leftover) not in Path("/proc/mounts").read_text()


def test_links_in_a_leftover_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("")
    (tmp_path / ".building-1").mkdir()
    (tmp_path / ".building-1/link").symlink_to(tmp_path / "precious")
    (tmp_path / ".building-2").symlink_to(tmp_path / "precious")
    builds.try_tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["precious"]
    assert (tmp_path / "precious/file").exists()
