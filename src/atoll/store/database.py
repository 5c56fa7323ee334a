"""The connection to the database: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from atoll.errors import ConfigurationError, HostError
from atoll.store.tables import metadata

T = TypeVar("T")


def _open_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        # Rows hold tokens: errors must not quote them.
        engine = create_engine(parsed, hide_parameters=True)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"the database URL can't be used: {error}",
            remedy="set ATOLL_DATABASE_URL to an SQLAlchemy URL whose driver is installed",
        ) from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            path = Path(parsed.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            # It holds sandboxes' access tokens: for the owner alone, from its first byte on.
            path.touch(mode=0o600, exist_ok=True)

        @event.listens_for(engine, "connect")
        def _set_pragmas(connection: Any, _record: Any) -> None:
            # WAL survives a `kill -9` at any point, and a commit costs no fsync; after a power
            # loss the last moments may be missing, but then the sandboxes are gone as well.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA busy_timeout=5000")
            connection.execute("PRAGMA foreign_keys=ON")

    return engine


class Database:
    """Runs transactions off the event loop, one after the other."""

    def __init__(self, url: str) -> None:
        self._engine = _open_engine(url)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        try:
            metadata.create_all(self._engine)
            for table in metadata.tables.values():
                for index in table.indexes:  # of a table that was there before it had them
                    index.create(self._engine, checkfirst=True)
        except OperationalError as error:
            raise HostError(
                f"the database can't be opened: {error.orig}",
                remedy="check ATOLL_DATABASE_URL and the rights on the data directory",
            ) from None

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, in the calling thread (for the command line)."""
        with self._engine.begin() as connection:
            return work(connection)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction; it is committed when this returns."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.transact, work)

    def close(self) -> None:
        """Finish what is under way and close."""
        self._thread.shutdown(wait=True)
        self._engine.dispose()
