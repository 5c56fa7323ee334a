"""Watches: `watch` tells the host what happens in a directory, as it happens or when asked.

The host stays connected for as long as it wants to know. A host that is slow to read makes the
events wait in the kernel's queue, which is bounded; when that overflows the watch ends with an
error.
"""

from __future__ import annotations

from .agent import Agent
from .connection import Body, Connection
from .loop import READ
from .paths import locate
from .refusal import Refusal
from .requests import flag, text
from .wire import Batch, message

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .watched import Watched

_WATCHES = 256
"""Most watches at a time."""
_UNSENT = 256 * 1024
"""Bytes that may wait for the host before no more events are read."""
_HELD = 2 * 1024 * 1024
_HELD_EVENTS = 16_384
"""Most that is kept for a host that wants to be told when it asks."""


def watch_directory(agent: Agent, connection: Connection, request: dict[str, object]) -> None:
    """`watch`: say `start`, then send `events`; with `polled`, only those held whenever the host
    sends a byte, and after them `polled`. Ends with the body of the request."""
    user = agent.user(request)
    path = locate(text(request, "path"), user)
    if len(agent.watching) >= _WATCHES:
        raise Refusal("resource_exhausted", f"the sandbox has its {_WATCHES} watches already")
    from .watched import Watched  # Late: it needs ctypes.

    watching = Watching(agent, connection, polled=flag(request, "polled"))
    watching.begin(
        Watched(
            path,
            user,
            agent.accounts,
            watching.report,
            recursive=flag(request, "recursive"),
            include_entry=flag(request, "include_entry"),
            network=flag(request, "allow_network_mounts"),
        )
    )


class Watching(Body):
    """One watch. It is always at one of three things: waiting for events, going through new
    directories, or waiting for the host to read."""

    def __init__(self, agent: Agent, connection: Connection, *, polled: bool) -> None:
        self._agent = agent
        self._loop = agent.loop
        self._connection = connection
        self._polled = polled
        self._watched: Watched | None = None
        self._started = False
        self._walking = False
        self._batch = Batch("events", self._take_frame)
        self._held: list[bytes] = []
        self._held_size = 0
        self._held_events = 0
        self._asked = 0
        self._unread = 0
        """Bytes of events that were in the queue when the host asked."""

    def begin(self, watched: Watched) -> None:
        """Go through what is there, then say that events will be seen from now on."""
        self._agent.watching.add(self)
        self._watched = watched
        self._connection.take_body(self)
        self._walk()

    # From the sandbox --------------------------------------------------------------------------

    def report(self, event: dict[str, object]) -> None:
        """Take an event."""
        if self._polled:
            self._held_events += 1
        self._batch.add(event)

    def _take_frame(self, frame: bytes) -> None:
        if not self._polled:
            self._connection.send(frame)
            return
        self._held.append(frame)
        self._held_size += len(frame)

    def catch_up(self) -> None:
        """See what has happened until now, if it is the turn of that."""
        if self._watched is not None and self._loop.watches(self._watched.fd):
            self._on_events(READ)

    def _on_events(self, _: int) -> None:
        try:
            self._read()
        except Exception:  # The host has to learn of it, and it must not come round again.
            self._connection.close()
            raise

    def _read(self) -> None:
        if self._watched is None:
            return
        try:
            count = self._watched.read()
        except Refusal as refusal:
            self._break(refusal)
            return
        self._unread = max(0, self._unread - count) if count else 0
        self._walk()

    def _walk(self) -> None:
        self._walking = False
        if self._watched is None:
            return
        try:
            more = self._watched.walk()
        except Refusal as refusal:
            self._break(refusal)
            return
        self._batch.flush()
        if self._held_size > _HELD or self._held_events > _HELD_EVENTS:
            self._break(
                Refusal(
                    "data_loss",
                    "watcher error: too many events came since they were last asked for; "
                    "watch again, and look at the directory anew",
                )
            )
            return
        self._go_on(more)

    def _go_on(self, more: bool) -> None:
        if not more:
            if not self._started:
                self._started = True
                self._connection.send(message({"start": {}}))
            if self._asked and not self._unread:
                self._answer()
        self._connection.flush()
        watched = self._watched
        if watched is None:  # The host has gone.
            return
        if self._connection.pending > _UNSENT:
            self._walking = more
            self._loop.forget(watched.fd)
            self._connection.request_room()
        elif more:
            self._walking = True
            self._loop.forget(watched.fd)
            self._loop.call_later(0, self._continue)
        elif not self._loop.watches(watched.fd):
            self._loop.watch(watched.fd, READ, self._on_events)

    def _continue(self) -> None:
        if self._walking:
            try:
                self._walk()
            except Exception:
                self._connection.close()
                raise

    # From the host -----------------------------------------------------------------------------

    def on_data(self, piece: memoryview) -> None:
        """The host asks for what happened until now."""
        self._asked += len(piece)
        if self._watched is not None:
            self._unread = self._watched.queued()
            if not self._walking and self._started:
                self._read()

    def _answer(self) -> None:
        for frame in self._held:
            self._connection.send(frame)
        self._held.clear()
        self._held_size = self._held_events = 0
        while self._asked:
            self._asked -= 1
            self._connection.send(message({"polled": {}}))

    def on_room(self) -> None:
        """The host has read all there was."""
        if self._watched is not None:
            self._walk()

    def on_end(self) -> None:
        """The host wants to know no more."""
        self._close()
        self._connection.finish()

    def on_gone(self) -> None:
        """The host closed the connection."""
        self._close()

    def _break(self, refusal: Refusal) -> None:
        self._close()
        if not self._polled:
            self._batch.flush()
        self._connection.fail(refusal)

    def _close(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            self._agent.watching.discard(self)
            self._loop.forget(watched.fd)
            watched.close()
