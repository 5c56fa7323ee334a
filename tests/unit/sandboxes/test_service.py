"""What the service does when the host does not do as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.errors import HostError
from atoll.sandboxes.history import History
from atoll.sandboxes.model import EndReason, Sandbox
from atoll.sandboxes.records import dump_sandbox
from atoll.sandboxes.service import SandboxService
from atoll.store.database import Database
from atoll.store.sandboxes import SandboxStore


class StubbornHost:
    """A host on which the first tries to remove a sandbox fail."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.removed: list[str] = []

    async def destroy(self, sandbox_id: str) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.removed.append(sandbox_id)

    async def close(self) -> None:
        """As the agent's client has it."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> SandboxStore:
    return SandboxStore(database)


@pytest.fixture
async def history(database: Database) -> AsyncIterator[History]:
    history = History(database, interval=5, hours=1, event_days=1, ended_days=1)
    yield history
    await history.stop()


async def test_what_could_not_be_removed_is_tried_again(
    tmp_path: Path,
    store: SandboxStore,
    history: History,
    make_sandbox: Callable[..., Sandbox],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atoll.sandboxes.endings._FIRST_RETRY_SECONDS", 0.01)
    host = StubbornHost(HostError("a process would not die"), OSError("the disk is busy"))
    service = SandboxService(
        driver=cast(Any, host),
        store=store,
        lifecycle=history.lifecycle,
        volumes=cast(Any, None),
        templates=cast(Any, None),
        data_dir=tmp_path,
        pool_size=0,
        warm=(),
        max_sandboxes=1,
        max_timeout=60,
        min_free_disk_mb=0,
        ready_seconds=60,
    )
    sandbox = make_sandbox(team_id="team")
    sandbox.agent = cast(Any, host)
    await store.save(dump_sandbox(sandbox))
    await service._end(sandbox, EndReason.KILLED)
    assert host.removed == []  # the client is not kept waiting for a host that is stuck
    async with asyncio.timeout(5):
        while host.removed != [sandbox.sandbox_id]:
            await asyncio.sleep(0.005)
    row = await store.get(sandbox.sandbox_id)
    assert row is not None
    assert (row.state, row.end_reason) == ("ended", "killed")
