"""What a build says, as lines of its log."""

from __future__ import annotations

import time

from atoll.store.batches import BatchWriter
from atoll.store.builds import BuildLine
from atoll.store.logs import LogLevel

MOST_LINES = 20_000
"""Of one build."""
_LONGEST_LINE = 4096


class Journal:
    """The log of one build, bounded."""

    def __init__(self, build_id: str, writer: BatchWriter[BuildLine]) -> None:
        self._build_id = build_id
        self._writer = writer
        self._count = 0

    def write(self, message: str, *, step: str, level: str = "info") -> None:
        """Add a line; after the last that is taken, one that says so."""
        if self._count > MOST_LINES:
            return
        if self._count == MOST_LINES:
            message, level = "the log is full: what follows is left out", "warn"
        text = message if len(message) <= _LONGEST_LINE else message[:_LONGEST_LINE] + "…"
        text = text.replace("\0", "")
        number = LogLevel[level.upper()]
        self._writer.add(
            BuildLine(self._build_id, self._count, time.time(), number, step[:64], text)
        )
        self._count += 1
