"""Keys and teams."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.errors import ConfigurationError, Conflict, NotFound, Unauthenticated
from atoll.store.database import Database
from atoll.store.keys import KeyStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/atoll.db")
    yield opened
    opened.close()


async def test_a_key_opens_its_team(database: Database) -> None:
    keys = KeyStore(database)
    one, two = keys.create(name="one"), keys.create(name="two")
    other = keys.create(name="one", team="others")
    assert re.fullmatch("e2b_[0-9a-f]{40}", one)
    assert await keys.authenticate(one) == await keys.authenticate(two)
    assert await keys.authenticate(one) != await keys.authenticate(other)
    for wrong in (None, "", "e2b_" + "0" * 40, one.upper()):
        with pytest.raises(Unauthenticated):
            await keys.authenticate(wrong)


async def test_revoking(database: Database) -> None:
    keys = KeyStore(database)
    key = keys.create(name="brief")
    (listed,) = keys.list()
    assert (listed.name, listed.team, listed.hint) == ("brief", "default", key[-4:])
    keys.revoke(listed.key_id)
    assert not keys.is_valid(key)
    with pytest.raises(Unauthenticated):
        await KeyStore(database).authenticate(key)
    with pytest.raises(NotFound):
        keys.revoke(listed.key_id)


def test_a_name_is_given_once_per_team(database: Database) -> None:
    keys = KeyStore(database)
    keys.create(name="one")
    with pytest.raises(Conflict):
        keys.create(name="one")


def test_the_file_is_the_owners_alone(tmp_path: Path, database: Database) -> None:
    key = KeyStore(database).create(name="one")
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key.encode() not in file.read_bytes()


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://x", "postgresql+nodriver://x"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Database(url)
