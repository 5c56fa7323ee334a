"""All processes of the sandbox that were started by the agent."""

from __future__ import annotations

import time

from .refusal import Refusal, quote

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .agent import Agent
    from .process import Process

_ENDED_KEPT = 64
_ENDED_SECONDS = 300.0
_ENDS_KEPT = 256


class Processes:
    """All processes by number: those that run, and those whose end nobody has seen yet."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.running: dict[int, Process] = {}
        self.ended: dict[int, Process] = {}
        self._ends: dict[int, dict[str, object]] = {}
        self._sweeping = False

    def find(self, pid: int | None, tag: str | None, *, ended: bool = False) -> Process:
        """Select by number or tag (the newest of that tag). Raises `Refusal` (not_found)."""
        places = (self.running, self.ended) if ended else (self.running,)
        for place in places:
            if pid is not None:
                if pid in place:
                    return place[pid]
            else:
                for process in reversed(place.values()):
                    if process.tag == tag:
                        return process
        name = f"pid {pid}" if pid is not None else f"tag {quote(tag or '')}"
        raise Refusal("not_found", f"process with {name} not found")

    def add(self, process: Process) -> None:
        """Take in a process that has just started."""
        old = self.ended.get(process.pid)
        if old is not None:  # The kernel gives the number out again.
            self.drop(old)
        self._ends.pop(process.pid, None)
        self.running[process.pid] = process

    def record_end(self, pid: int, end: dict[str, object]) -> None:
        """Write down how a process ended, also when that was sent to somebody: whoever just left
        may not have got it."""
        self._ends[pid] = end
        while len(self._ends) > _ENDS_KEPT:
            del self._ends[next(iter(self._ends))]

    def find_end(self, pid: int) -> dict[str, object] | None:
        """How one of the last processes ended."""
        return self._ends.get(pid)

    def keep(self, process: Process) -> None:
        """Remember a process that ended unseen, for a while."""
        self.ended[process.pid] = process
        process.forget_at = time.monotonic() + _ENDED_SECONDS
        while len(self.ended) > _ENDED_KEPT:
            self.drop(next(iter(self.ended.values())))
        self._sweep_later()

    def _sweep_later(self) -> None:
        if self.ended and not self._sweeping:
            self._sweeping = True
            oldest = next(iter(self.ended.values()))
            self.agent.loop.call_later(oldest.forget_at - time.monotonic(), self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = time.monotonic()
        for process in list(self.ended.values()):
            if process.forget_at <= now:
                self.drop(process)
        self._sweep_later()

    def drop(self, process: Process) -> None:
        """Forget an ended process."""
        if self.ended.get(process.pid) is process:
            del self.ended[process.pid]
            process.held.clear()
