"""What is known of sandboxes beyond the moment: metrics, logs and events, for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

import structlog

from atoll.errors import SandboxNotFound
from atoll.sandboxes.events import Lifecycle
from atoll.sandboxes.logbook import Logbook
from atoll.sandboxes.model import Sandbox
from atoll.sandboxes.sampler import Sampler
from atoll.store.database import Database
from atoll.store.events import EventStore
from atoll.store.logs import LogEntry, LogQuery, LogStore
from atoll.store.metrics import MetricStore, SandboxSample, TeamSample
from atoll.store.sandboxes import SandboxStore
from atoll.store.webhooks import WebhookStore

log = structlog.get_logger(__name__)

_PRUNE_SECONDS = 60.0
_DAY = 86400.0


class History:
    """Collects, answers and forgets."""

    def __init__(
        self,
        database: Database,
        *,
        interval: float,
        hours: float,
        event_days: float,
        ended_days: float,
    ) -> None:
        """`interval` is in seconds, between two samples of a sandbox.

        `hours` is how long samples and logs are kept, `event_days` how long events are,
        `ended_days` how long it is remembered that a sandbox existed.
        """
        self._sandboxes = SandboxStore(database)
        self._ended_seconds = ended_days * _DAY
        self._metrics = MetricStore(database, retention=hours * 3600)
        self._logs = LogStore(database, retention=hours * 3600)
        self._events = EventStore(database, retention=event_days * _DAY)
        self.logbook = Logbook(self._logs)
        self.lifecycle = Lifecycle(self._events, self.logbook)
        self.webhooks = WebhookStore(database)
        self._live: Callable[[], Iterable[Sandbox]] = tuple
        self._sampler = Sampler(self._metrics, lambda: self._live(), interval=interval)
        self.lifecycle.listen(self._sampler.on_event)
        self._task: asyncio.Task[None] | None = None

    def start(self, live: Callable[[], Iterable[Sandbox]]) -> None:
        """Begin to measure the sandboxes that `live` gives, and to forget."""
        self._live = live
        self._sampler.start()
        self._task = asyncio.create_task(self._forget(), name="history")

    async def stop(self) -> None:
        """End, and write what is waiting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._sampler.stop()
        await self.lifecycle.close()
        await self.logbook.close()

    async def metrics(
        self, team_id: str, sandbox_id: str, start: int | None, end: int | None
    ) -> list[SandboxSample]:
        """What a sandbox used from `start` to `end`, seconds since the epoch, oldest first.

        Ended ones are found too. Raises `SandboxNotFound`.
        """
        await self._check_owner(team_id, sandbox_id)
        await self._sampler.flush()
        return await self._metrics.sandbox(sandbox_id, start, end)

    async def newest_metrics(
        self, team_id: str, sandbox_ids: Collection[str]
    ) -> list[SandboxSample]:
        """The newest sample of each of these that is the team's and alive."""
        mine = {each.sandbox_id for each in self._live() if each.team_id == team_id}
        wanted = mine.intersection(sandbox_ids)
        await self._sampler.flush()
        return await self._metrics.newest(wanted) if wanted else []

    async def team_metrics(
        self, team_id: str, start: int | None, end: int | None
    ) -> list[TeamSample]:
        """How many sandboxes a team had from `start` to `end`, oldest first."""
        return await self._metrics.team(team_id, start, end)

    async def logs(self, team_id: str, sandbox_id: str, query: LogQuery) -> list[LogEntry]:
        """What was written down about a sandbox, ended or not. Raises `SandboxNotFound`."""
        await self._check_owner(team_id, sandbox_id)
        return await self.logbook.find(sandbox_id, query)

    async def _check_owner(self, team_id: str, sandbox_id: str) -> None:
        row = await self._sandboxes.get(sandbox_id)
        if row is None or row.team_id != team_id:
            raise SandboxNotFound(sandbox_id)

    async def _forget(self) -> None:
        while True:
            try:
                await self._metrics.prune()
                await self._logs.prune()
                await self._events.prune()
                await self._sandboxes.prune(self._ended_seconds)
            except Exception as error:  # whatever the database's driver raises
                log.error("history.prune_failed", error=type(error).__name__)
            await asyncio.sleep(_PRUNE_SECONDS)
