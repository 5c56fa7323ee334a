"""What is kept of sandboxes, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from atoll.store import logs as logs_module
from atoll.store.batches import BatchWriter
from atoll.store.database import Database
from atoll.store.events import EventRow, EventStore
from atoll.store.logs import LogEntry, LogLevel, LogQuery, LogStore
from atoll.store.metrics import MetricStore, SandboxSample, TeamSample
from atoll.store.sandboxes import SandboxRow, SandboxStore
from atoll.store.webhooks import WebhookStore

NOW = int(time.time())


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    yield database
    database.close()


def sample(at: int, *, lasting: bool = False, sandbox_id: str = "one") -> SandboxSample:
    return SandboxSample(sandbox_id, at, lasting, 2, 1.5, 1, 2, 3, 4, 1 << 40)


def event(kind: str = "created", team: str = "team", at: float = NOW) -> EventRow:
    number = str(time.monotonic_ns())
    return EventRow(number, team, "one", "template", "build", "execution", kind, at, {"a": 1})


async def test_samples_get_fewer_with_age(database: Database) -> None:
    store = MetricStore(database, retention=86400)
    ages = (90000, 80000, 4000, 10)
    samples = [sample(NOW - age) for age in ages]
    samples += [sample(NOW - age + 1, lasting=True) for age in ages]
    await store.add_sandboxes([*samples, *samples])  # twice the same second is once
    await store.add_teams([TeamSample("team", NOW - age, 1, 0.5) for age in ages])
    await store.prune()
    left = await store.sandbox("one", None, None)
    assert [(NOW - each.at, each.lasting) for each in left] == [
        (79999, True),
        (3999, True),
        (10, False),
        (9, True),
    ]
    assert [NOW - each.at for each in await store.team("team", None, None)] == [80000, 4000, 10]


async def test_samples_within_an_interval(database: Database) -> None:
    store = MetricStore(database, retention=86400)
    await store.add_sandboxes([sample(NOW - age) for age in range(5)])
    await store.add_sandboxes([sample(NOW - 1, sandbox_id="two")])
    found = await store.sandbox("one", NOW - 3, NOW - 1)
    assert [each.at for each in found] == [NOW - 3, NOW - 2, NOW - 1]
    newest = await store.newest(["one", "two", "three"])
    assert {(each.sandbox_id, each.at) for each in newest} == {("one", NOW), ("two", NOW - 1)}


async def test_a_noisy_sandbox_loses_its_oldest_entries(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "PER_SANDBOX", 20)
    monkeypatch.setattr(logs_module, "_SLACK", 5)
    store = LogStore(database, retention=86400)
    quiet = LogEntry("quiet", NOW, LogLevel.INFO, "here", {})
    await store.add([quiet])
    for number in range(50):
        await store.add([LogEntry("noisy", NOW + number / 100, LogLevel.INFO, str(number), {})])
    kept = await store.find("noisy", LogQuery())
    assert len(kept) <= 25
    assert kept[-1].message == "49"
    assert await store.find("quiet", LogQuery()) == [quiet]
    monkeypatch.setattr(logs_module, "IN_ALL", 10)
    await store.prune()
    assert await store.find("quiet", LogQuery()) == []


async def test_old_entries_go(database: Database) -> None:
    store = LogStore(database, retention=60)
    await store.add([LogEntry("one", NOW - 100, LogLevel.INFO, "old", {})])
    assert await store.find("one", LogQuery()) == []
    await store.prune()
    assert await LogStore(database, retention=1000).find("one", LogQuery()) == []


async def test_an_event_and_its_deliveries_come_together(database: Database) -> None:
    events, hooks = EventStore(database, retention=86400), WebhookStore(database)
    hook = await hooks.create(
        "team", name="n", url="http://x/", enabled=True, types=["killed"], secret="s"
    )
    killed = event("killed")
    await events.add([event("created"), killed, event("killed", team="another")])
    assert await hooks.due(time.time()) == {hook.webhook_id: "team"}
    delivery = await hooks.next_delivery(hook.webhook_id)
    assert delivery is not None
    assert delivery.event == killed
    await hooks.postpone(delivery, 60)
    assert await hooks.next_delivery(hook.webhook_id) is None
    assert await hooks.next_due(time.time()) is not None
    await hooks.delete("team", hook.webhook_id)
    assert await hooks.next_due(time.time()) is None


async def test_what_is_off_gets_nothing(database: Database) -> None:
    events, hooks = EventStore(database, retention=86400), WebhookStore(database)
    hook = await hooks.create(
        "team", name="n", url="http://x/", enabled=True, types=["created"], secret="s"
    )
    await events.add([event()])
    await hooks.change("team", hook.webhook_id, {"enabled": False})
    assert await hooks.next_delivery(hook.webhook_id) is None
    await events.add([event()])
    await hooks.change("team", hook.webhook_id, {"enabled": True})
    assert await hooks.next_delivery(hook.webhook_id) is None


async def test_events_of_a_noisy_team(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.store.events.PER_TEAM", 3)
    store = EventStore(database, retention=86400)
    await store.add([event(team="noisy") for _ in range(9)])
    await store.add([event(team="quiet"), event(team="quiet", at=NOW - 90000)])
    await store.prune()

    async def count(team: str) -> int:
        query: dict[str, Any] = {"sandbox_id": None, "types": (), "oldest_first": True}
        return len(await store.find(team, **query, offset=0, limit=100))

    assert (await count("noisy"), await count("quiet")) == (3, 1)


async def test_no_secret_outlives_a_sandbox(database: Database) -> None:
    store = SandboxStore(database)
    record = {"metadata": {"a": "b"}, "access_token": "geheim"}
    await store.save(SandboxRow("one", "running", NOW, record, team_id="team"))
    await store.record_end("one", "killed", lambda given: {"metadata": given["metadata"]})
    await store.record_end("one", "timeout", dict)  # the first end counts
    row = await store.get("one")
    assert row is not None
    assert (row.end_reason, row.record) == ("killed", {"metadata": {"a": "b"}})
    await store.prune(60)
    assert await store.get("one") is not None
    await store.prune(-1)
    assert await store.get("one") is None


async def test_a_batch_that_fails_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.store.batches._RETRY_SECONDS", 0.01)
    written: list[int] = []
    failures = [OSError("the disk is full")]

    async def write(items: Sequence[int]) -> None:
        if failures:
            raise failures.pop()
        written.extend(items)

    writer = BatchWriter(write, linger=0, bound=3)
    for number in range(5):
        writer.add(number)  # what comes on top of the bound is lost
    async with asyncio.timeout(5):
        while not written:
            await asyncio.sleep(0.005)
    assert written == [0, 1, 2]


async def test_a_flush_that_is_broken_off_loses_nothing() -> None:
    written: list[int] = []
    go = asyncio.Event()

    async def write(items: Sequence[int]) -> None:
        await go.wait()
        written.extend(items)

    writer = BatchWriter(write, linger=60)
    writer.add(1)
    flush = asyncio.create_task(writer.flush())
    await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    go.set()
    await writer.close()
    assert written == [1]
