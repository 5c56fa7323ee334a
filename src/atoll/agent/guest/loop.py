"""The event loop: one thread, one epoll, a few timers.

The asyncio package would cost 40 ms of start time and several megabytes in every sandbox.
"""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable

    Timer = tuple[float, Callable[[], None]]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLRDHUP
GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Loop:
    """Calls back when descriptors are ready and when moments come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._running = False

    def watch(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever one of `mask` holds for the descriptor."""
        self._epoll.register(fd, mask)
        self._callbacks[fd] = callback
        self._masks[fd] = mask

    def watches(self, fd: int) -> bool:
        """Whether the descriptor is watched."""
        return fd in self._callbacks

    def change(self, fd: int, mask: int) -> None:
        """Wait for other events than before."""
        if self._masks[fd] != mask:
            self._epoll.modify(fd, mask)
            self._masks[fd] = mask

    def forget(self, fd: int) -> None:
        """Stop watching. Has to come before the descriptor is closed: a copy of it in a child
        would otherwise keep the registration alive with no way to remove it."""
        if self._callbacks.pop(fd, None) is not None:
            del self._masks[fd]
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once, not before the time has passed. There are only ever a few timers: one for each
        program whose time is limited is the most there is."""
        timer = (time.monotonic() + seconds, callback)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Don't call any more. Does nothing when it has been called."""
        if timer in self._timers:
            self._timers.remove(timer)

    def stop(self) -> None:
        """Leave `run` after the callbacks at hand."""
        self._running = False

    def run(self, on_error: Callable[[Exception], None]) -> None:
        """Work until `stop`. A callback that raises harms nobody else."""
        self._running = True
        while self._running:
            try:
                ready = self._epoll.poll(self._wait())
            except InterruptedError:
                continue
            for fd, events in ready:
                # An earlier callback of this round may have closed it (and even opened another of
                # the same number: then the callback meets a descriptor that is not ready, which
                # every callback takes, since all descriptors are non-blocking).
                callback = self._callbacks.get(fd)
                if callback is not None:
                    try:
                        callback(events)
                    except Exception as error:
                        on_error(error)
            if self._timers:
                self._expire(on_error)

    def _wait(self) -> float:
        if not self._timers:
            return -1
        return max(0.0, min(when for when, _ in self._timers) - time.monotonic())

    def _expire(self, on_error: Callable[[Exception], None]) -> None:
        now = time.monotonic()
        due = [callback for when, callback in self._timers if when <= now]
        if due:
            self._timers = [timer for timer in self._timers if timer[0] > now]
        for callback in due:
            try:
                callback()
            except Exception as error:
                on_error(error)

    def detach(self) -> None:
        """Forget everything without touching the kernel's list: for a forked child, which shares
        the list with its parent."""
        os.close(self._epoll.fileno())
        self._callbacks.clear()
        self._masks.clear()
        self._timers.clear()
