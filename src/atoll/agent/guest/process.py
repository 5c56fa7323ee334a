"""One program that runs in the sandbox, and the clients attached to it."""

from __future__ import annotations

import os

from .connection import Body, Connection, Task
from .ending import describe_end
from .loop import READ, WRITE
from .output import HeldOutput
from .refusal import Refusal, describe, refuse_resources
from .sessions import kill_session
from .signals import SIGKILL
from .spawn import Program, set_window, spawn
from .wire import PTY, STDERR, STDOUT, frame, message

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from .processes import Processes

_CHUNK = 64 * 1024
_DRAINING_READS = 64
"""More than a terminal's buffer takes: whoever opens it anew and goes on writing is not heard."""
_CLIENT_BOUND = 256 * 1024
"""Bytes waiting for the slowest attached client above which a process's output is left unread."""


class Process:
    """One program: its pipes, its clients, what it wrote while nobody listened."""

    def __init__(
        self,
        processes: Processes,
        program: Program,
        config: dict[str, object],
        tag: str | None,
        lifetime: int,
    ) -> None:
        """`lifetime` is in milliseconds; 0 is as long as it wants."""
        started = spawn(program, (STDOUT, STDERR, PTY))
        self.pid = started.pid
        self.config = config
        self.tag = tag
        self.is_pty = program.pty is not None
        self.held = HeldOutput()
        self.forget_at = 0.0
        self._processes = processes
        self._loop = processes.agent.loop
        self._clients: list[Connection] = []
        self.watchers: list[Connection] = []
        self._status: int | None = None
        self._outputs = started.outputs
        self._reading = True
        self._input_fd = started.input
        self._input_queue: list[tuple[Input, memoryview]] = []
        self._closing_input = False
        self._timer = self._loop.call_later(lifetime / 1000, self._expire) if lifetime else None
        processes.add(self)
        processes.agent.children[self.pid] = self._on_exit
        for fd in self._outputs:
            self._update(fd)

    # Clients -----------------------------------------------------------------------------------

    def attach(self, client: Connection) -> None:
        """Give a client what is held, then everything that comes."""
        client.send(message({"start": {"pid": self.pid}}))
        for kind, data in self.held.frames():
            client.send(frame(kind, bytes(data)))
        if self._processes.ended.get(self.pid) is self:
            client.finish(self._end())
            return
        self.held.clear()
        client.task = Attached(self, client)
        self._clients.append(client)
        client.flush()
        self.balance()

    def detach(self, client: Connection) -> None:
        """A client left; the process goes on."""
        self._clients.remove(client)
        self.balance()

    def watch(self, client: Connection) -> None:
        """Tell a client of the end. It counts as nobody: it neither takes nor delays output."""
        client.send(message({"start": {"pid": self.pid}}))
        if self._processes.ended.get(self.pid) is self:
            client.finish(self._end())
            return
        client.task = Watching(self.watchers, client)
        self.watchers.append(client)
        client.flush()

    def balance(self) -> None:
        """Read the program's output only while every attached client keeps up."""
        reading = all(client.pending <= _CLIENT_BOUND for client in self._clients)
        if reading != self._reading:
            self._reading = reading
            for fd in self._outputs:
                self._update(fd)
            self._drain()

    def _update(self, fd: int) -> None:
        mask = READ if self._reading else 0
        if self.is_pty and self._input_queue:
            mask |= WRITE
        if not mask:
            # Merely waiting for nothing would still report a hang-up, again and again.
            self._loop.forget(fd)
        elif self._loop.watches(fd):
            self._loop.change(fd, mask)
        else:
            self._loop.watch(fd, mask, lambda events: self._on_pipe(fd, events))

    # Output and end ----------------------------------------------------------------------------

    def _on_pipe(self, fd: int, events: int) -> None:
        self._read(fd)
        if self.is_pty and events & WRITE:
            self._write_input()

    def _drain(self) -> None:
        """A terminal is hung up when its session's leader ends. Jobs that live on keep it open, but
        write to it no more: take what is there, and let go of it."""
        if not self.is_pty or self._status is None:
            return
        for fd in tuple(self._outputs):
            for _ in range(_DRAINING_READS):
                if fd in self._outputs:
                    self._read(fd)
            if self._reading:
                self._abandon()

    def _read(self, fd: int) -> None:
        if not self._reading:
            return
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal has no user any more.
            data = b""
        kind = self._outputs[fd]
        if not data:
            self._loop.forget(fd)
            del self._outputs[fd]
            if fd == self._input_fd:
                self._fail_inputs()
                self._input_fd = None
            os.close(fd)
            self._check_end()
        elif self._clients:
            block = frame(kind, data)
            for client in tuple(self._clients):
                client.send(block)
                client.flush()
            self.balance()
        else:
            self.held.add(kind, data)

    def _on_exit(self, status: int) -> None:
        self._status = status
        if self._timer is not None:
            self._loop.cancel(self._timer)
        self._drain()
        self._check_end()

    def _end(self) -> dict[str, object]:
        return describe_end(self._status or 0)

    def _check_end(self) -> None:
        """The end: the process is dead and nobody holds its output open any more."""
        if self._status is None or self._outputs:
            return
        if self._processes.running.pop(self.pid, None) is None:
            return
        self._close_input()
        self._processes.record_end(self.pid, self._end())
        clients, self._clients = self._clients, []
        for client in clients:
            client.finish(self._end())
        if not clients:
            self._processes.keep(self)
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher.finish(self._end())

    # Input -------------------------------------------------------------------------------------

    def require_input(self, *, pty: bool) -> None:
        """Refuse input of the wrong kind, or to a process that takes none."""
        if pty and not self.is_pty:
            raise Refusal("invalid_argument", f"process {self.pid} has no terminal")
        if not pty and self.is_pty:
            raise Refusal("invalid_argument", f"process {self.pid} has a terminal, not stdin")
        if self._input_fd is None or self._closing_input:
            raise Refusal("invalid_argument", f"stdin of process {self.pid} is not open")

    def feed(self, source: Input, piece: memoryview) -> bool:
        """Write input now, or keep what does not fit. Says whether all was written."""
        self.require_input(pty=self.is_pty)
        rest = piece if self._input_queue else self._try_write(piece)
        if not rest:
            return True
        self._input_queue.append((source, memoryview(bytes(rest))))
        self._watch_input()
        return False

    def cancel(self, source: Input) -> None:
        """Forget what a source has not written yet."""
        self._input_queue = [item for item in self._input_queue if item[0] is not source]
        self._watch_input()

    def close_stdin(self) -> None:
        """Give the program an end of file after what is still to be written."""
        if self.is_pty:
            raise Refusal(
                "invalid_argument", "a terminal's input cannot be closed; send Ctrl-D (0x04)"
            )
        self.require_input(pty=False)
        self._closing_input = True
        if not self._input_queue:
            self._close_input()

    def _try_write(self, data: memoryview) -> memoryview:
        fd = self._input_fd
        if fd is None:
            raise Refusal("invalid_argument", f"stdin of process {self.pid} is not open")
        try:
            return data[os.write(fd, data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            if not self.is_pty:
                self._close_input()
            raise Refusal(
                "invalid_argument", f"process {self.pid} takes no input: {describe(error)}"
            ) from error

    def _watch_input(self) -> None:
        fd = self._input_fd
        if fd is None:
            return
        if self.is_pty:
            if fd in self._outputs:
                self._update(fd)
        elif not self._input_queue:
            self._loop.forget(fd)
        elif not self._loop.watches(fd):
            self._loop.watch(fd, WRITE, lambda _: self._write_input())

    def _write_input(self) -> None:
        while self._input_queue:
            source, data = self._input_queue[0]
            try:
                rest = self._try_write(data)
            except Refusal:
                self._fail_inputs()
                return
            if rest:
                self._input_queue[0] = (source, rest)
                return
            del self._input_queue[0]
            source.on_written()
        self._watch_input()
        if self._closing_input:
            self._close_input()

    def _fail_inputs(self) -> None:
        queue, self._input_queue = self._input_queue, []
        for source, _ in queue:
            source.on_refused()

    def _close_input(self) -> None:
        fd, self._input_fd = self._input_fd, None
        if fd is not None and not self.is_pty:
            self._loop.forget(fd)
            os.close(fd)
        self._fail_inputs()

    # Control -----------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Signal the process and all of its group; a kill of a terminal ends all its session.

        Raises `Refusal` (not_found).
        """
        try:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                if self._status is not None:  # Reaped: the number may be another's by now.
                    raise
                os.kill(self.pid, number)
            if self.is_pty and number == SIGKILL:
                kill_session(self.pid)
        except ProcessLookupError as error:
            if number == SIGKILL and self._outputs:
                self._abandon()
                return
            raise Refusal("not_found", f"process with pid {self.pid} not found") from error
        except OSError as error:
            raise Refusal("invalid_argument", f"signal {number}: {describe(error)}") from error

    def _expire(self) -> None:
        """The time that its client gave it is over."""
        if self._status is None:
            self.signal(SIGKILL)

    def _abandon(self) -> None:
        """Its group is dead, but someone outside it (a daemon, a job) still holds the pipes or the
        terminal: stop listening."""
        for fd in list(self._outputs):
            self._loop.forget(fd)
            del self._outputs[fd]
            os.close(fd)
            if fd == self._input_fd:
                self._input_fd = None
        self._check_end()

    def resize(self, cols: int, rows: int) -> None:
        """Set the size of the terminal."""
        if not self.is_pty:
            raise Refusal("invalid_argument", f"process {self.pid} has no terminal")
        if self._input_fd is None:
            raise Refusal("not_found", f"process with pid {self.pid} not found")
        try:
            set_window(self._input_fd, cols, rows)
        except OSError as error:
            raise refuse_resources(error, "cannot resize the terminal") from error


class Attached(Task):
    """A connection that receives a process's output."""

    def __init__(self, process: Process, client: Connection) -> None:
        self._process = process
        self._client = client

    def on_room(self) -> None:
        """The client has caught up."""
        self._process.balance()

    def on_gone(self) -> None:
        """The client left."""
        self._process.detach(self._client)


class Watching(Task):
    """A connection that waits for a process's end."""

    def __init__(self, watchers: list[Connection], client: Connection) -> None:
        self._watchers = watchers
        self._client = client

    def on_gone(self) -> None:
        """The client left."""
        self._watchers.remove(self._client)


class Input(Body):
    """A connection that sends input. It is answered when the program's pipe has taken all."""

    def __init__(self, process: Process, client: Connection) -> None:
        self._process = process
        self._client = client
        self._ended = False
        self._waiting = False

    def on_data(self, piece: memoryview) -> None:
        """Write, or hold the connection until the pipe has room."""
        if not self._process.feed(self, piece):
            self._waiting = True
            self._client.hold()

    def on_end(self) -> None:
        """All input has come."""
        self._ended = True
        if not self._waiting:
            self._client.finish()

    def on_written(self) -> None:
        """The pipe has taken what was waiting."""
        self._waiting = False
        if self._ended:
            self._client.finish()
        else:
            self._client.resume()

    def on_refused(self) -> None:
        """The pipe is closed for good."""
        self._client.fail(Refusal("invalid_argument", "the process takes no input any more"))

    def on_gone(self) -> None:
        """The host gave up: nothing more of it is written."""
        self._process.cancel(self)
