"""Opening the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from atoll.errors import ConfigurationError
from atoll.store.database import Database


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://x", "postgresql+nodriver://x"])
def test_a_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Database(url)


def test_an_older_database_gets_its_indexes(tmp_path: Path) -> None:
    file = tmp_path / "atoll.db"
    Database(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as connection:
        connection.execute("drop index sandboxes_by_end")
    connection.close()
    for _ in range(2):
        Database(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as connection:
        # What is done every minute must not read all that ever was.
        forget = "explain query plan delete from sandboxes where ended_at < 1"
        assert "sandboxes_by_end" in str(connection.execute(forget).fetchall())
    connection.close()
