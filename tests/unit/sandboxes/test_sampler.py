"""Measuring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.isolation.driver import Usage
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.sampler import Sampler
from atoll.store.database import Database
from atoll.store.metrics import MetricStore


class Meter:
    """A host that reads nonsense for one of its sandboxes."""

    def __init__(self, *, broken: bool) -> None:
        self._broken = broken

    async def usage(self, _: object) -> Usage:
        if self._broken:
            raise ValueError("that is no number")
        return Usage(
            cpu_seconds=1.0,
            memory_bytes=1,
            memory_limit_bytes=2,
            cache_bytes=1,
            processes=1,
            disk_used_bytes=1,
            disk_total_bytes=2,
        )


async def test_one_that_cannot_be_measured_keeps_no_other_from_it(
    tmp_path: Path, make_sandbox: Callable[..., Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.sandboxes.sampler._TICK", 0.01)
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    store = MetricStore(database, retention=60)
    broken, sound = make_sandbox(), make_sandbox()
    broken.driver = cast(Any, Meter(broken=True))
    sound.driver = cast(Any, Meter(broken=False))
    sampler = Sampler(store, lambda: [broken, sound], interval=0.01)
    sampler.start()
    try:
        async with asyncio.timeout(30):
            while not await store.sandbox(sound.sandbox_id, None, None):
                await asyncio.sleep(0.01)
        assert await store.sandbox(broken.sandbox_id, None, None) == []
    finally:
        await sampler.stop()
        database.close()
