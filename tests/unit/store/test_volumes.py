from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.errors import Exhausted, InvalidInput
from atoll.store.database import Database
from atoll.store.teams import TeamStore
from atoll.store.volumes import VolumeStore


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database."""
    made = Database(f"sqlite:///{tmp_path}/atoll.db")
    yield made
    made.close()


async def test_names_and_numbers_are_each_teams_own(database: Database) -> None:
    teams = TeamStore(database)
    ours, theirs = await teams.ensure("ours"), await teams.ensure("theirs")
    store = VolumeStore(database)
    first = await store.add("1", ours, "name", most=2)
    await store.add("2", theirs, "name", most=2)
    with pytest.raises(InvalidInput, match="already exists"):
        await store.add("3", ours, "name", most=2)
    await store.add("4", ours, "other", most=2)
    with pytest.raises(Exhausted):
        await store.add("5", ours, "more", most=2)
    assert await store.list(ours) == [first, await store.get("4")]
    await store.remove("1")
    assert await store.get("1") is None
    await store.add("6", ours, "name", most=2)
    assert [each.volume_id for each in await store.list(theirs)] == ["2"]
