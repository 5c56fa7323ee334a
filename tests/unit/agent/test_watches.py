"""Watches of directories, by the real agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.agent.guest import inotify, watched
from atoll.agent.guest.refusal import Refusal
from atoll.agent.guest.users import Accounts, User
from atoll.agent.model import WatchConfig, WatchEvent
from atoll.agent.watches import Watchers, WatchStream
from atoll.errors import (
    EventsLost,
    Exhausted,
    Forbidden,
    InvalidInput,
    PathNotFound,
    SandboxGone,
    WatcherNotFound,
)

from .conftest import Guest, until


def told(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [(each.type, each.name) for each in events]


async def begin(guest: Guest, path: object = ".", *, recursive: bool = False, **more: bool) -> str:
    config = WatchConfig(str(path), recursive, **more)
    return await guest.client.watchers.create(config, user="user")


async def poll(guest: Guest, watcher_id: str) -> list[tuple[str, str]]:
    return told(await guest.client.watchers.poll(watcher_id))


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def upload(guest: Guest, path: str, content: bytes = b"content") -> None:
    await guest.client.write_file(path, user="user", chunks=once(content), metadata={"a": "b"})


def change(folder: Path, times: int) -> None:
    """Make that many events; two in a row are never the same, so the kernel keeps them apart."""
    files = [folder / f"{'long' * 60}-{n}" for n in range(2)]
    for file in files:
        file.touch()
    for n in range(times - 2):
        os.chmod(files[n % 2], 0o644)


def inotify_descriptors(guest: Guest) -> int:
    count = 0
    for file in Path(f"/proc/{guest.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since the directory was read.
            count += "inotify" in os.readlink(file)
    return count


async def test_a_new_file_gives_three_events(guest: Guest) -> None:
    watcher = await begin(guest)
    await upload(guest, "new")
    assert await poll(guest, watcher) == [("create", "new"), ("chmod", "new"), ("write", "new")]
    assert await poll(guest, watcher) == []


async def test_every_kind_of_event(guest: Guest) -> None:
    home = guest.home
    (home / "old").write_text("x")
    watcher = await begin(guest)
    (home / "old").chmod(0o600)
    (home / "old").rename(home / "new")
    with (home / "new").open("a") as file:
        file.write("more")
    (home / "new").unlink()
    home.chmod(0o700)
    assert await poll(guest, watcher) == [
        ("chmod", "old"),
        ("rename", "old"),
        ("create", "new"),
        ("write", "new"),
        ("remove", "new"),
        ("chmod", "."),
    ]


async def test_only_the_directory_itself_unless_recursive(guest: Guest) -> None:
    (guest.home / "nested").mkdir()
    flat, deep = await begin(guest), await begin(guest, recursive=True)
    (guest.home / "nested" / "file").touch()
    assert await poll(guest, flat) == []
    assert ("create", "nested/file") in await poll(guest, deep)


async def test_a_directory_made_meanwhile_is_watched(guest: Guest) -> None:
    watcher = await begin(guest, recursive=True)
    await guest.client.make_dir("nested", user="user")
    await upload(guest, "nested/file")
    assert await poll(guest, watcher) == [
        ("create", "nested"),
        ("create", "nested/file"),
        ("chmod", "nested/file"),
        ("write", "nested/file"),
    ]


async def test_what_is_in_a_new_directory_is_reported_once(guest: Guest) -> None:
    watcher = await begin(guest, recursive=True)
    script = "for n in $(seq 50); do mkdir -p $n/a/b; echo x > $n/a/b/file; : > $n/empty; done"
    await guest.run(script)
    events = await poll(guest, watcher)
    created = [name for kind, name in events if kind == "create"]
    parts = ("", "/a", "/a/b", "/a/b/file", "/empty")
    assert sorted(created) == sorted(f"{n}{part}" for n in range(1, 51) for part in parts)
    assert {name for kind, name in events if kind == "write"} == {
        f"{n}/a/b/file" for n in range(1, 51)
    }


async def test_a_tree_that_moves(guest: Guest) -> None:
    tree = guest.home / "tree"
    (tree / "branch").mkdir(parents=True)
    (tree / "branch" / "leaf").write_text("x")
    watcher = await begin(guest, recursive=True)
    tree.rename(guest.home / "moved")
    events = await poll(guest, watcher)
    assert events[:2] == [("rename", "tree"), ("create", "moved")]
    assert ("create", "moved/branch/leaf") in events
    (guest.home / "moved" / "branch" / "leaf").write_text("y")
    assert set(await poll(guest, watcher)) == {("write", "moved/branch/leaf")}
    (guest.home / "moved").rename(guest.common / "out")
    (guest.common / "out" / "branch" / "leaf").write_text("z")
    assert await poll(guest, watcher) == [("rename", "moved")]
    (guest.common / "out").rename(guest.home / "back")
    assert ("create", "back/branch/leaf") in await poll(guest, watcher)


async def test_the_directory_itself_goes(guest: Guest) -> None:
    (guest.home / "shown").mkdir()
    watcher = await begin(guest, "shown", recursive=True)
    (guest.home / "shown").rmdir()
    assert await poll(guest, watcher) == [("remove", ".")]


async def test_entries(guest: Guest) -> None:
    watcher = await begin(guest, include_entry=True)
    await upload(guest, "file", b"12345")
    (guest.home / "file").unlink()
    events = await guest.client.watchers.poll(watcher)
    assert told(events)[-1] == ("remove", "file")
    assert events[-1].entry is None
    await upload(guest, "other", b"12345")
    entry = (await guest.client.watchers.poll(watcher))[-1].entry
    assert entry is not None
    assert (entry.path, entry.size, entry.owner) == (str(guest.home / "other"), 5, "user")
    assert entry.metadata == {"a": "b"}


async def test_what_cannot_be_watched(guest: Guest) -> None:
    (guest.home / "file").touch()
    (guest.home / "hidden").mkdir(mode=0o700)
    for path in ("missing", "file/below"):
        with pytest.raises(PathNotFound):
            await begin(guest, path)
    with pytest.raises(InvalidInput, match="is not a directory"):
        await begin(guest, "file")
    with pytest.raises(Forbidden):
        await begin(guest, guest.home / "hidden")
    # What a user may not see below a directory is passed over.
    watcher = await begin(guest, recursive=True)
    (guest.home / "hidden" / "file").touch()
    assert await poll(guest, watcher) == []
    assert inotify_descriptors(guest) == 1


async def test_too_many_directories(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WatchConfig(str(guest.home), recursive=True)
    made: list[dict[str, object]] = []
    monkeypatch.setattr(watched, "_FOLDERS_LIMIT", 4)
    (guest.home / "a" / "b").mkdir(parents=True)
    user = User("root", 0, 0, "/root", [0])
    here = watched.Watched(
        config.path,
        user,
        Accounts(),
        made.append,
        recursive=True,
        include_entry=False,
        network=False,
    )
    assert not here.walk()
    (guest.home / "c").mkdir()
    assert here.read()
    assert not here.walk()
    (guest.home / "d").mkdir()
    with pytest.raises(Refusal, match="more directories than can be watched"):
        here.read()
    here.close()


def test_network_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not inotify.is_on_network("/proc")
    monkeypatch.setattr(inotify, "_NETWORK", frozenset((0x9FA0,)))  # What /proc is.
    assert inotify.is_on_network("/proc")
    assert not inotify.is_on_network("/dev")
    arguments = ("/proc", User("root", 0, 0, "/root", [0]), Accounts(), print)
    with pytest.raises(Refusal, match="cannot watch path on network filesystem"):
        watched.Watched(*arguments, recursive=False, include_entry=False, network=False)
    watched.Watched(*arguments, recursive=False, include_entry=False, network=True).close()


async def test_a_symlink_is_not_followed_below_the_directory(guest: Guest) -> None:
    (guest.home / "link").symlink_to(guest.common)
    below, through = await begin(guest, recursive=True), await begin(guest, "link")
    (guest.common / "file").touch()
    assert await poll(guest, below) == []
    assert ("create", "file") in await poll(guest, through)


async def test_names_that_are_not_unicode(guest: Guest) -> None:
    watcher = await begin(guest, include_entry=True)
    Path(os.fsdecode(os.fsencode(guest.home) + b"/\xff\n")).touch()
    assert (await poll(guest, watcher))[0] == ("create", "\ufffd\n")


async def collect_events(stream: WatchStream, into: list[WatchEvent]) -> None:
    async for batch in stream:
        into += batch


async def test_events_stream_as_they_come(guest: Guest) -> None:
    config = WatchConfig(".", recursive=True)
    async with await guest.client.watch(config, user="user") as stream:
        await upload(guest, "new")
        events: list[WatchEvent] = []
        while len(events) < 3:
            events += await anext(stream)
        assert told(events) == [("create", "new"), ("chmod", "new"), ("write", "new")]
        assert inotify_descriptors(guest) == 1
    await until(lambda: inotify_descriptors(guest) == 0)


async def test_a_slow_reader_is_told_what_it_missed(guest: Guest) -> None:
    """Nobody reads, so the kernel's queue overflows in the end: neither side holds more."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    stream = await guest.client.watch(WatchConfig("."), user="user")
    await asyncio.to_thread(change, guest.home, most + 30_000)
    events: list[WatchEvent] = []
    with pytest.raises(EventsLost, match="watch again"):
        await collect_events(stream, events)
    assert len(events) >= most
    await until(lambda: inotify_descriptors(guest) == 0)


async def test_events_that_nobody_asks_for(guest: Guest) -> None:
    watcher = await begin(guest)
    for _ in range(20):
        change(guest.home, 1000)
        await guest.client.stat(".", user="user")  # Give the agent its turn.
    with pytest.raises(EventsLost, match="last asked for"):
        await poll(guest, watcher)
    with pytest.raises(WatcherNotFound):
        await poll(guest, watcher)


async def test_a_large_tree(guest: Guest) -> None:
    await guest.run("mkdir -p $(seq -f 'd%g/e' 800)")
    watcher = await begin(guest, recursive=True)
    (guest.home / "d799" / "e" / "file").touch()
    assert ("create", "d799/e/file") in await poll(guest, watcher)
    await guest.run("cp -r . /tmp/copy-$$ && mv /tmp/copy-$$ copy")
    created = [name for kind, name in await poll(guest, watcher) if kind == "create"]
    assert len(created) == len(set(created)) == 1602


async def test_a_poll_that_is_cancelled_loses_nothing(guest: Guest) -> None:
    watcher = await begin(guest)
    for n in range(50):
        (guest.home / f"file{n}").touch()
        polling = asyncio.create_task(guest.client.watchers.poll(watcher))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
    created = [name for kind, name in await poll(guest, watcher) if kind == "create"]
    assert created == [f"file{n}" for n in range(50)]


async def test_polls_at_the_same_time(guest: Guest) -> None:
    watcher = await begin(guest)
    (guest.home / "file").touch()
    answers = await asyncio.gather(*(poll(guest, watcher) for _ in range(5)))
    assert [event for answer in answers for event in answer].count(("create", "file")) == 1


async def test_many_watches_and_their_limit(guest: Guest) -> None:
    streams = [await guest.client.watch(WatchConfig("."), user="user") for _ in range(256)]
    with pytest.raises(Exhausted, match="256 watches"):
        await guest.client.watch(WatchConfig("."), user="user")
    (guest.home / "file").touch()
    for stream in streams:
        assert told(await anext(stream))[0] == ("create", "file")
        await stream.close()
    await until(lambda: inotify_descriptors(guest) == 0)
    await begin(guest)


async def test_the_limit_of_watchers(guest: Guest) -> None:
    client = guest.client
    watchers = Watchers(client._begin_polled, limit=2)
    first = await watchers.create(WatchConfig("."), user="user")
    await watchers.create(WatchConfig("."), user="user")
    with pytest.raises(Exhausted, match="2 watchers"):
        await watchers.create(WatchConfig("."), user="user")
    watchers.remove(first)
    for missing in (first, "w0", ""):
        with pytest.raises(WatcherNotFound):
            watchers.remove(missing)
        with pytest.raises(WatcherNotFound):
            await watchers.poll(missing)
    await watchers.create(WatchConfig("."), user="user")
    watchers.close()
    await until(lambda: inotify_descriptors(guest) == 0)


async def test_idle_watchers_expire(guest: Guest) -> None:
    watchers = Watchers(guest.client._begin_polled, idle_seconds=0.05)
    watcher = await watchers.create(WatchConfig("."), user="user")
    await until(lambda: inotify_descriptors(guest) == 0)
    with pytest.raises(WatcherNotFound):
        await watchers.poll(watcher)


async def test_a_watcher_that_is_removed_while_it_is_polled(guest: Guest) -> None:
    watcher = await begin(guest)
    polling = asyncio.create_task(guest.client.watchers.poll(watcher))
    await asyncio.sleep(0)
    guest.client.watchers.remove(watcher)
    with pytest.raises(WatcherNotFound):
        await polling


async def test_closing_the_client_ends_all(guest: Guest) -> None:
    watcher = await begin(guest)
    stream = await guest.client.watch(WatchConfig("."), user="user")
    await guest.client.close()
    with pytest.raises(SandboxGone):
        await anext(stream)
    with pytest.raises(WatcherNotFound):
        await guest.client.watchers.poll(watcher)
    await until(lambda: inotify_descriptors(guest) == 0)
