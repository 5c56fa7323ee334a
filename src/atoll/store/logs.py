"""What happened in sandboxes: processes that started and ended, and their lives.

Bounded three times: an entry by the logbook, a sandbox by `PER_SANDBOX`, all of them by `IN_ALL`;
the oldest entries give way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum

from sqlalchemy import Connection, delete, func, insert, select

from atoll.store.database import Database
from atoll.store.tables import sandbox_logs

PER_SANDBOX = 10_000
IN_ALL = 1_000_000
_SLACK = 500
"""Entries that a sandbox may have too many until they are removed."""
_COUNTED = 10_000
"""Sandboxes whose new entries are counted at most."""


class LogLevel(IntEnum):
    """How grave an entry is."""

    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry."""

    sandbox_id: str
    at: float
    """Seconds since the epoch."""
    level: LogLevel
    message: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which entries, and in which order."""

    since: float | None = None
    """Seconds since the epoch, included."""
    until: float | None = None
    """Seconds since the epoch, included."""
    level: LogLevel = LogLevel.DEBUG
    """This one and graver ones."""
    search: str = ""
    """A part of the message, upper and lower case told apart."""
    newest_first: bool = False
    limit: int = 1000


class LogStore:
    """Keeps log entries."""

    def __init__(self, database: Database, *, retention: float) -> None:
        """`retention` is in seconds."""
        self._database = database
        self._retention = retention
        self._untrimmed: Counter[str] = Counter()

    async def add(self, entries: Sequence[LogEntry]) -> None:
        """Write entries, and keep the sandboxes they are of within their bound."""
        rows = [asdict(entry) for entry in entries]
        self._untrimmed.update(entry.sandbox_id for entry in entries)
        full = [each for each, count in self._untrimmed.items() if count >= _SLACK]
        for sandbox_id in full:
            del self._untrimmed[sandbox_id]

        def work(connection: Connection) -> None:
            connection.execute(insert(sandbox_logs), rows)
            for sandbox_id in full:
                _trim(connection, sandbox_id)

        await self._database.run(work)

    async def find(self, sandbox_id: str, query: LogQuery) -> list[LogEntry]:
        """The entries of a sandbox."""
        table = sandbox_logs.c
        old = time.time() - self._retention
        since = old if query.since is None else max(old, query.since)
        found = select(sandbox_logs).where(
            table.sandbox_id == sandbox_id, table.at >= since, table.level >= query.level
        )
        if query.until is not None:
            found = found.where(table.at <= query.until)
        if query.newest_first:
            found = found.order_by(table.at.desc(), table.number.desc())
        else:
            found = found.order_by(table.at, table.number)

        def work(connection: Connection) -> list[LogEntry]:
            entries: list[LogEntry] = []
            for row in connection.execute(found).mappings():
                if len(entries) >= query.limit:
                    break
                # Here, not in SQL: SQLite's LIKE takes upper case for lower case.
                if query.search in row["message"]:
                    entries.append(
                        LogEntry(
                            row["sandbox_id"],
                            row["at"],
                            LogLevel(row["level"]),
                            row["message"],
                            row["fields"],
                        )
                    )
            return entries

        return await self._database.run(work)

    async def prune(self) -> None:
        """Remove what is too old, or too much."""
        table = sandbox_logs.c
        old = delete(sandbox_logs).where(table.at < time.time() - self._retention)

        def work(connection: Connection) -> None:
            connection.execute(old)
            newest = connection.scalar(select(func.max(table.number))) or 0
            connection.execute(delete(sandbox_logs).where(table.number <= newest - IN_ALL))

        await self._database.run(work)
        if len(self._untrimmed) > _COUNTED:  # nearly all of them ended long ago
            self._untrimmed.clear()


def _trim(connection: Connection, sandbox_id: str) -> None:
    table = sandbox_logs.c
    mine = table.sandbox_id == sandbox_id
    newest = select(table.number).where(mine).order_by(table.number.desc())
    last = connection.scalar(newest.offset(PER_SANDBOX).limit(1))
    if last is not None:
        connection.execute(delete(sandbox_logs).where(mine, table.number <= last))
