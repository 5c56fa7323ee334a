"""What becomes of a volume whose maker is interrupted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from atoll.store.database import Database
from atoll.store.teams import TeamStore
from atoll.store.volumes import VolumeStore
from atoll.volumes.service import VolumeService
from atoll.volumes.tokens import VolumeTokens


class SlowHost:
    """A host that goes on with what it began, though the one who waits for it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.volumes: set[str] = set()

    async def create_volume(self, volume_id: str, _: int) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.volumes.add(volume_id)

    async def remove_volume(self, volume_id: str) -> None:
        await asyncio.sleep(0)
        self.volumes.discard(volume_id)


async def test_a_broken_off_create_leaves_no_disk(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/atoll.db")
    team = await TeamStore(database).ensure("team")
    host = SlowHost()
    service = VolumeService(
        driver=cast(Any, host),
        store=VolumeStore(database),
        tokens=VolumeTokens("key"),
        data_dir=tmp_path,
        size_mb=64,
        max_volumes=1,
        min_free_disk_mb=0,
    )
    creating = asyncio.create_task(service.create(team, "name"))
    await host.begun.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert host.volumes == set()
    assert await service.list(team) == []
    await service.stop()
    database.close()
