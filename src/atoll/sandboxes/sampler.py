"""Measures the live sandboxes, each every few seconds.

All of it is read on the host, from the control groups and the file system: nothing is asked of the
sandbox, which may be frozen, busy or hostile. One measurement takes a fifth of a millisecond.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from atoll.errors import AtollError
from atoll.isolation.driver import Usage
from atoll.sandboxes.events import EventType
from atoll.sandboxes.model import Sandbox
from atoll.store.batches import BatchWriter
from atoll.store.events import EventRow
from atoll.store.metrics import MetricStore, SandboxSample, TeamSample

log = structlog.get_logger(__name__)

_TICK = 1.0
_TEAM_SECONDS = 15.0
_LASTING_SECONDS = 60.0
_TURN = 8
"""Sandboxes that are measured before the event loop gets to do other things."""


def processor_percent(before: Usage, after: Usage, seconds: float, cpu_count: int) -> float:
    """How busy a sandbox's processors were between two measurements, all of them together."""
    if seconds <= 0:
        return 0.0
    busy = max(0.0, after.cpu_seconds - before.cpu_seconds)
    return round(100 * busy / seconds / cpu_count, 2)


@dataclass(slots=True)
class _Track:
    """What is remembered of a sandbox from one sample to the next. Times are monotonic."""

    usage: Usage
    measured: float
    due: float
    lasting_due: float = 0.0


class Sampler:
    """Takes the samples, of sandboxes and of teams."""

    def __init__(
        self, store: MetricStore, live: Callable[[], Iterable[Sandbox]], *, interval: float
    ) -> None:
        """`interval` is the time between two samples of a sandbox, in seconds."""
        self._store = store
        self._live = live
        self._interval = interval
        self._tracks: dict[str, _Track] = {}
        self._writer = BatchWriter(store.add_sandboxes, linger=_TICK)
        self._started: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._counted: set[str] = set()
        self._team_moment = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="sampler")

    async def stop(self) -> None:
        """End, and write what is waiting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._writer.close()

    async def flush(self) -> None:
        """Wait until all samples taken so far can be read."""
        await self._writer.flush()

    def on_event(self, event: EventRow) -> None:
        """Count what starts, for the teams' samples."""
        if event.type in (EventType.CREATED, EventType.RESUMED):
            self._started[event.team_id] += 1
            # Of those that live for less than a tick, the count alone would not tell.
            alive = sum(sandbox.team_id == event.team_id for sandbox in self._live())
            self._peaks[event.team_id] = max(self._peaks[event.team_id], alive)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            try:
                await self._sample_sandboxes()
                await self._sample_teams()
            except Exception:  # one bad moment must not end the measuring
                log.exception("sampler.failed")

    async def _sample_sandboxes(self) -> None:
        sandboxes = list(self._live())
        for gone in self._tracks.keys() - {sandbox.sandbox_id for sandbox in sandboxes}:
            del self._tracks[gone]
        measured = 0
        for sandbox in sandboxes:
            track = self._tracks.get(sandbox.sandbox_id)
            if track is not None and track.due > time.monotonic():
                continue
            try:
                await self._sample(sandbox, track)
            except (AtollError, OSError):
                pass  # it has ended meanwhile
            except Exception:  # one that can't be measured must not keep the others from it
                log.exception("sampler.sandbox_failed", sandbox_id=sandbox.sandbox_id)
            measured += 1
            if measured % _TURN == 0:
                await asyncio.sleep(0)

    async def _sample(self, sandbox: Sandbox, track: _Track | None) -> None:
        usage = await sandbox.measure()
        now = time.monotonic()
        if track is None:  # there is nothing to compare with yet: the first sample a tick later
            self._tracks[sandbox.sandbox_id] = _Track(usage, now, now)
            return
        cpu_count = sandbox.template.resources.cpu_count
        lasting = now >= track.lasting_due
        self._writer.add(
            SandboxSample(
                sandbox_id=sandbox.sandbox_id,
                at=int(time.time()),
                lasting=lasting,
                cpu_count=cpu_count,
                cpu_percent=processor_percent(track.usage, usage, now - track.measured, cpu_count),
                memory_used=usage.memory_bytes,
                memory_total=usage.memory_limit_bytes,
                memory_cache=usage.cache_bytes,
                disk_used=usage.disk_used_bytes,
                disk_total=usage.disk_total_bytes,
            )
        )
        if lasting:
            track.lasting_due = now + _LASTING_SECONDS
        track.usage, track.measured = usage, now
        track.due = now + self._interval - _TICK / 2  # ticks come late, never early

    async def _sample_teams(self) -> None:
        alive = Counter(sandbox.team_id for sandbox in self._live())
        for team_id, count in alive.items():
            self._peaks[team_id] = max(self._peaks[team_id], count)
        now = time.monotonic()
        seconds = now - self._team_moment
        if seconds < _TEAM_SECONDS:
            return
        # A team that has just lost its last sandbox gets a zero, so that the line comes down.
        teams = self._peaks.keys() | self._counted
        at = int(time.time())
        samples = [
            TeamSample(
                team_id, at, self._peaks[team_id], round(self._started[team_id] / seconds, 4)
            )
            for team_id in teams
        ]
        self._team_moment = now
        self._counted = set(self._peaks)
        self._peaks.clear()
        self._started.clear()
        if samples:
            await self._store.add_teams(samples)
