"""What is written down about single sandboxes, for their owners to read."""

from __future__ import annotations

import time

from atoll.agent.model import ProcessConfig, ProcessEnd
from atoll.store.batches import BatchWriter
from atoll.store.logs import LogEntry, LogLevel, LogQuery, LogStore

_LONGEST = 2048
"""Characters of a message or field that are kept."""
_LINGER = 1.0


class Logbook:
    """The logs of all sandboxes."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._writer = BatchWriter(store.add, linger=_LINGER)

    def record(self, sandbox_id: str, message: str, **fields: object) -> None:
        """Write down what happened now."""
        texts = {name: _clip(str(value)) for name, value in fields.items()}
        entry = LogEntry(sandbox_id, time.time(), LogLevel.INFO, _clip(message), texts)
        self._writer.add(entry)

    def process_started(self, sandbox_id: str, pid: int, config: ProcessConfig) -> None:
        """Write down a start. Variables may be secrets: they are left out."""
        self.record(
            sandbox_id,
            f"Process with pid {pid} started",
            logger="process",
            event_type="process_start",
            pid=pid,
            command=" ".join((config.cmd, *config.args)),
        )

    def process_ended(self, sandbox_id: str, pid: int, end: ProcessEnd) -> None:
        """Write down an end."""
        self.record(
            sandbox_id,
            f"Process with pid {pid} ended",
            logger="process",
            event_type="process_end",
            pid=pid,
            exit_code=end.exit_code,
            status=end.status,
        )

    async def find(self, sandbox_id: str, query: LogQuery) -> list[LogEntry]:
        """What was written down about a sandbox, up to now."""
        await self._writer.flush()
        return await self._store.find(sandbox_id, query)

    async def close(self) -> None:
        """Write what is waiting."""
        await self._writer.close()


def _clip(text: str) -> str:
    # What clients send may hold what no database takes: lone surrogates, zero bytes.
    clean = (
        text[: _LONGEST + 1]
        .encode("utf-8", "replace")
        .decode()
        .replace("\0", "\N{SYMBOL FOR NULL}")
    )
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"
