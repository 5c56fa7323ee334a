"""What all operations share, and the dispatch of requests to them."""

from __future__ import annotations

import os

from .connection import Connection, Task
from .loop import Loop
from .processes import Processes
from .refusal import Refusal, refuse_resources
from .requests import text
from .users import Accounts, User
from .worker import Sender, killed_first, serve_as_worker

TYPE_CHECKING = False  # The typing module itself is not in the runtime directory.
if TYPE_CHECKING:
    from collections.abc import Callable

    from .watches import Watching


class Agent:
    """The agent's state: who is connected, which children run, who the users are."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.accounts = Accounts()
        self.children: dict[int, Callable[[int], None]] = {}
        """What to do with the exit status of each child of the agent's own."""
        self.processes = Processes(self)
        self.watching: set[Watching] = set()
        self.operations: dict[str, Callable[[Agent, Connection, dict[str, object]], None]] = {}

    def dispatch(self, connection: Connection, request: dict[str, object]) -> None:
        """Run one request. Raises `Refusal`."""
        operation = self.operations.get(text(request, "op"))
        if operation is None:
            raise Refusal("invalid_argument", "unknown operation")
        # A directory that the request before this one made has to be watched before this one writes
        # to it: else that would be found later, instead of seen.
        for watching in tuple(self.watching):
            watching.catch_up()
        operation(self, connection, request)

    def user(self, request: dict[str, object]) -> User:
        """Who the request is to run as."""
        return self.accounts.find(text(request, "user"))

    def reap(self) -> None:
        """Collect every dead child, also those that were orphaned into the sandbox's first pid."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            callback = self.children.pop(pid, None)
            if callback is not None:
                callback(status)

    def delegate(
        self, connection: Connection, user: User, work: Callable[[Sender], dict[str, object]]
    ) -> None:
        """Do work that may take long in a child that is the user for good.

        The child answers on the connection itself; meanwhile the agent only watches for the end of
        both. Raises `Refusal` when no child can be had.
        """
        connection.flush()
        try:
            with killed_first():
                pid = os.fork()
        except OSError as error:
            raise refuse_resources(error, "cannot start a worker") from error
        if pid == 0:
            serve_as_worker(self.loop, connection.fd, user, work)
        connection.task = Task()
        connection.detach()

        def on_exit(status: int) -> None:
            if status == 0:
                connection.reattach()
            else:  # Killed, perhaps in the middle of a frame.
                connection.close()

        self.children[pid] = on_exit
