"""Watches of directories: events as they come, or kept in the sandbox until they are asked for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from atoll.agent.channel import Channel
from atoll.agent.guest.wire import JSON
from atoll.agent.model import WatchConfig, WatchEvent
from atoll.agent.replies import decode_events, decode_message, read_error
from atoll.agent.streams import Release, Stream
from atoll.errors import AgentFailed, Exhausted, PathNotFound, SandboxGone, WatcherNotFound

_POLL_SECONDS = 60.0
_POLL_SIZE = 4 * 1024 * 1024
_POLL_EVENTS = 32_768
"""Most that one poll brings, in bytes and in number; an agent keeps half of that."""


class WatchStream(Stream):
    """Events as they come, in batches. `close` ends the watch.

    Iterating raises `EventsLost` when more happened than could be told, `Exhausted` when there came
    to be too many directories, `SandboxGone` and `AgentFailed`.
    """

    async def __anext__(self) -> list[WatchEvent]:
        kind, payload = await self._receive()
        try:
            message = decode_message(payload) if kind == JSON else {}
            if "error" in message:
                raise read_error(message, PathNotFound)
            return decode_events(message)
        except BaseException:
            self.drop()
            raise


class Watch(Stream):
    """A watch whose events stay in the sandbox until they are asked for."""

    def __init__(self, channel: Channel, release: Release) -> None:
        super().__init__(channel, release)
        self._turn = asyncio.Lock()
        self._unanswered = 0
        self._events: list[WatchEvent] = []
        self._size = 0

    async def poll(self) -> list[WatchEvent]:
        """What happened since the last poll, to this moment.

        Raises what `WatchStream` raises. When it is cancelled, the events are in the next answer.
        """
        async with self._turn:
            self._channel.send_content(b"?")
            self._unanswered += 1
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    while self._unanswered:
                        await self._take()
            except TimeoutError as error:
                self.drop()
                raise AgentFailed("the agent did not answer a poll in time") from error
            except asyncio.CancelledError:
                raise
            except BaseException:
                self.drop()
                raise
            events, self._events, self._size = self._events, [], 0
            return events

    async def _take(self) -> None:
        if not self._open:
            raise SandboxGone("the watch has ended")
        kind, payload = await self._channel.receive()
        message = decode_message(payload) if kind == JSON else {}
        if "error" in message:
            raise read_error(message, PathNotFound)
        if "polled" in message:
            self._unanswered -= 1
            return
        self._size += len(payload)
        if self._size > _POLL_SIZE:
            raise AgentFailed("the agent sent too many events")
        self._events += decode_events(message)
        if len(self._events) > _POLL_EVENTS:
            raise AgentFailed("the agent sent too many events")


class Watchers:
    """The polled watches of one sandbox, by id. Those that nobody asks are closed after a while."""

    def __init__(
        self,
        begin: Callable[[WatchConfig, str], Awaitable[Watch]],
        *,
        limit: int = 64,
        idle_seconds: float = 3600,
    ) -> None:
        self._begin = begin
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._watches: dict[str, Watch] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._beginning = 0
        self._closed = False

    async def create(self, config: WatchConfig, *, user: str) -> str:
        """Begin a watch and return its id.

        Raises what beginning it raises, and `Exhausted` when there are too many.
        """
        if len(self._watches) + self._beginning >= self._limit:
            raise Exhausted(
                f"the sandbox has its {self._limit} watchers already", remedy="remove some"
            )
        self._beginning += 1
        try:
            watch = await self._begin(config, user)
        finally:
            self._beginning -= 1
        watcher_id = f"w{secrets.token_hex(10)}"
        self._watches[watcher_id] = watch
        self._keep(watcher_id)
        return watcher_id

    async def poll(self, watcher_id: str) -> list[WatchEvent]:
        """What happened since the last poll.

        Raises `WatcherNotFound`, and what `Watch.poll` raises: after that, the watcher is gone.
        """
        watch = self._watches.get(watcher_id)
        if watch is None:
            raise WatcherNotFound(watcher_id)
        self._keep(watcher_id)
        try:
            return await watch.poll()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            removed = watcher_id not in self._watches
            self._forget(watcher_id)
            if isinstance(error, SandboxGone) and removed and not self._closed:
                raise WatcherNotFound(watcher_id) from None
            raise

    def remove(self, watcher_id: str) -> None:
        """End a watch. Raises `WatcherNotFound`."""
        if watcher_id not in self._watches:
            raise WatcherNotFound(watcher_id)
        self._forget(watcher_id)

    def close(self) -> None:
        """End all."""
        self._closed = True
        for watcher_id in list(self._watches):
            self._forget(watcher_id)

    def _keep(self, watcher_id: str) -> None:
        """Count the idle time from now on."""
        if (timer := self._timers.pop(watcher_id, None)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[watcher_id] = loop.call_later(self._idle_seconds, self._forget, watcher_id)

    def _forget(self, watcher_id: str) -> None:
        if (watch := self._watches.pop(watcher_id, None)) is not None:
            self._timers.pop(watcher_id).cancel()
            watch.drop()
