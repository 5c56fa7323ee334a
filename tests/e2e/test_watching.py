"""`files.watch_dir`, polled and streamed, through the official SDKs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    FilesystemEvent,
    FilesystemEventType,
    NotFoundException,
    Sandbox,
    SandboxException,
)
from e2b.exceptions import InvalidArgumentException, RateLimitException, TimeoutException
from e2b.sandbox_sync.filesystem.watch_handle import WatchHandle

from tests.e2e.test_files import routed
from tests.server import RunningServer, find_init

CREATE, CHMOD, WRITE = (
    FilesystemEventType.CREATE,
    FilesystemEventType.CHMOD,
    FilesystemEventType.WRITE,
)
RENAME, REMOVE = FilesystemEventType.RENAME, FilesystemEventType.REMOVE


def told(events: list[FilesystemEvent]) -> list[tuple[FilesystemEventType, str]]:
    return [(each.type, each.name) for each in events]


def test_a_new_file(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    handle = sandbox.files.watch_dir("watched")
    for name in ("first.txt", "second.txt"):
        sandbox.files.write(f"watched/{name}", "content", metadata={"kept": "too"})
        assert told(handle.get_new_events()) == [(CREATE, name), (CHMOD, name), (WRITE, name)]
    assert handle.get_new_events() == []
    sandbox.files.write("watched/first.txt", "again")
    assert (WRITE, "first.txt") in told(handle.get_new_events())
    sandbox.files.rename("watched/first.txt", "watched/third.txt")
    assert told(handle.get_new_events()) == [(RENAME, "first.txt"), (CREATE, "third.txt")]
    sandbox.files.remove("watched/third.txt")
    assert told(handle.get_new_events()) == [(REMOVE, "third.txt")]
    handle.stop()


def test_recursive(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched/nested")
    handle = sandbox.files.watch_dir("watched", recursive=True)
    flat = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/nested/test.txt", "content")
    events = told(handle.get_new_events())
    name = "nested/test.txt"
    assert events == [(CREATE, name), (CHMOD, name), (WRITE, name)]
    assert flat.get_new_events() == []


def test_a_directory_made_during_the_watch(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    handle = sandbox.files.watch_dir("watched", recursive=True)
    sandbox.files.make_dir("watched/nested")
    sandbox.files.write("watched/nested/test.txt", "content")
    name = "nested/test.txt"
    assert told(handle.get_new_events()) == [
        (CREATE, "nested"),
        (CREATE, name),
        (CHMOD, name),
        (WRITE, name),
    ]
    # A program is faster than anybody who watches.
    sandbox.commands.run("cd watched; mkdir -p a/b/c; echo x > a/b/c/file")
    events = told(handle.get_new_events())
    for kind, name in ((CREATE, "a"), (CREATE, "a/b/c"), (CREATE, "a/b/c/file")):
        assert events.count((kind, name)) == 1
    assert (WRITE, "a/b/c/file") in events


def test_what_a_command_did_is_in_the_next_answer(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    handle = sandbox.files.watch_dir("watched")
    for n in range(20):
        sandbox.commands.run(f"touch watched/{n}")
        assert (CREATE, f"{n}") in told(handle.get_new_events())


def test_the_whole_sandbox(sandbox: Sandbox) -> None:
    handle = sandbox.files.watch_dir("/", user="root", recursive=True)
    sandbox.files.write("/tmp/file", "x")
    assert (CREATE, "tmp/file") in told(handle.get_new_events())


def test_entries_of_events(sandbox: Sandbox) -> None:
    sandbox.files.make_dir("watched")
    handle = sandbox.files.watch_dir("watched", include_entry=True)
    sandbox.files.write("watched/file", "12345", metadata={"colour": "blue"})
    last = handle.get_new_events()[-1]
    assert last.entry is not None
    assert (last.entry.path, last.entry.size) == ("/home/user/watched/file", 5)
    assert (last.entry.owner, last.entry.permissions) == ("user", "-rw-r--r--")
    assert last.entry.metadata == {"colour": "blue"}
    sandbox.files.remove("watched/file")
    assert handle.get_new_events()[-1].entry is None


def test_what_cannot_be_watched(sandbox: Sandbox) -> None:
    sandbox.files.write("file", "")
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir("missing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.watch_dir("file")
    with pytest.raises(SandboxException, match="permission denied"):
        sandbox.files.watch_dir("/root")
    sandbox.files.watch_dir("/root", user="root", allow_network_mounts=True).stop()


def test_a_stopped_watcher_is_gone(sandbox: Sandbox) -> None:
    handle = sandbox.files.watch_dir(".")
    same = WatchHandle(
        handle._rpc, handle._watcher_id, handle._connection_config, handle._envd_version
    )
    handle.stop()
    with pytest.raises(NotFoundException, match="not found"):
        same.get_new_events()
    with pytest.raises(NotFoundException, match="not found"):
        same.stop()


def test_the_number_of_watchers_is_bounded(sandbox: Sandbox) -> None:
    handles = [sandbox.files.watch_dir(".") for _ in range(64)]
    with pytest.raises(RateLimitException, match="64 watchers"):
        sandbox.files.watch_dir(".")
    for handle in handles:
        handle.stop()
    sandbox.files.watch_dir(".")


def test_lost_events_are_an_error(sandbox: Sandbox) -> None:
    handle = sandbox.files.watch_dir(".")
    program = "import os\nfor n in range(100000): os.chmod('ab'[n % 2], 0o600)"
    sandbox.files.write("program.py", program)
    sandbox.commands.run("touch a b && python3 program.py")
    with pytest.raises(SandboxException, match="watch again"):
        handle.get_new_events()


@pytest.fixture
async def other(server: RunningServer) -> AsyncIterator[AsyncSandbox]:
    made = await AsyncSandbox.create(timeout=120, **server.options)
    yield made
    await made.kill()


class Events:
    """Takes what a watch tells, and waits for it."""

    def __init__(self) -> None:
        self.events: list[FilesystemEvent] = []
        self.errors: list[Exception | None] = []
        self._news = asyncio.Event()

    def on_event(self, event: FilesystemEvent) -> None:
        self.events.append(event)
        self._news.set()

    def on_exit(self, error: Exception | None) -> None:
        self.errors.append(error)
        self._news.set()

    async def wait_for(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()


def count_watches(server: RunningServer, sandbox: AsyncSandbox) -> int:
    """As the agent's open files say."""
    count = 0
    for file in Path(f"/proc/{find_init(server.data_dir, sandbox.sandbox_id)}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed since the directory was read.
            count += "inotify" in str(file.readlink())
    return count


async def test_streamed(server: RunningServer, other: AsyncSandbox) -> None:
    seen = Events()
    await other.files.make_dir("watched/nested")
    handle = await other.files.watch_dir(
        "watched", seen.on_event, seen.on_exit, recursive=True, include_entry=True
    )
    await other.files.write("watched/nested/test.txt", "content", metadata={"a": "b"})
    await seen.wait_for(lambda: len(seen.events) >= 3)
    name = "nested/test.txt"
    assert told(seen.events) == [(CREATE, name), (CHMOD, name), (WRITE, name)]
    assert seen.events[2].entry is not None
    assert seen.events[2].entry.metadata == {"a": "b"}
    await other.files.make_dir("watched/new")
    await other.commands.run("echo x > watched/new/file")
    await seen.wait_for(lambda: (WRITE, "new/file") in told(seen.events))
    assert count_watches(server, other) == 1
    await handle.stop()  # type: ignore[no-untyped-call]
    assert seen.errors == [None]
    async with asyncio.timeout(20):
        while count_watches(server, other):
            await asyncio.sleep(0.05)


async def test_streamed_errors(other: AsyncSandbox) -> None:
    await other.files.write("file", "")
    with pytest.raises(NotFoundException):
        await other.files.watch_dir("missing", print)
    with pytest.raises(InvalidArgumentException):
        await other.files.watch_dir("file", print)


async def test_a_stream_has_its_time(other: AsyncSandbox) -> None:
    seen = Events()
    await other.files.watch_dir(".", seen.on_event, seen.on_exit, timeout=1)
    await seen.wait_for(lambda: seen.errors)
    assert isinstance(seen.errors[0], TimeoutException)


async def test_a_stream_ends_with_its_sandbox(server: RunningServer) -> None:
    seen = Events()
    sandbox = await AsyncSandbox.create(timeout=120, **server.options)
    await sandbox.files.watch_dir(".", seen.on_event, seen.on_exit, timeout=0)
    await sandbox.kill()
    await seen.wait_for(lambda: seen.errors)
    assert isinstance(seen.errors[0], TimeoutException)
    assert "killed or reached its end of life" in str(seen.errors[0])


def test_signs_of_life(server: RunningServer, sandbox: Sandbox) -> None:
    """At the interval that the client asks for."""
    headers = {
        **routed(sandbox),
        "Content-Type": "application/connect+json",
        "Connect-Protocol-Version": "1",
        "Keepalive-Ping-Interval": "1",
        "Authorization": "Basic " + base64.b64encode(b"user:").decode(),
    }
    body = json.dumps({"path": "."}).encode()
    url = f"{server.url}/filesystem.Filesystem/WatchDir"
    content = struct.pack(">BI", 0, len(body)) + body
    began = time.monotonic()
    with httpx.stream("POST", url, headers=headers, content=content, timeout=20) as answer:
        pieces = answer.iter_raw()
        received = next(pieces)
        assert json.loads(received[5:]) == {"start": {}}
        assert json.loads(next(pieces)[5:]) == {"keepalive": {}}
    assert time.monotonic() - began >= 1
