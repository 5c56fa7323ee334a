"""Sockets in the network namespaces of sandboxes.

A socket belongs for good to the namespace in which it was made, whoever uses it afterwards. So a
thread enters the sandbox's namespace, makes the socket, and leaves; the connection is then made
and used from the event loop like any other. Nothing in the sandbox takes part.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import socket
import threading
from concurrent.futures import Future

from atoll.isolation import namespaces

_CONNECT_SECONDS = 10.0
_BACKLOG_RETRY_SECONDS = 0.005
# What a connection attempt meets when nobody listens there, or the address does not exist.
_CLOSED = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EADDRNOTAVAIL,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EAFNOSUPPORT,
}

_Request = tuple[int, int, int, "Future[socket.socket]"]


class NamespaceSockets:
    """Makes sockets in other network namespaces, on a thread kept for that."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self, netns: int, family: int, kind: int) -> Future[socket.socket]:
        """Make a non-blocking socket in the namespace of that descriptor."""
        with self._lock:
            if self._thread is None:
                self._start()
        future: Future[socket.socket] = Future()
        # A copy: the caller's number may mean another sandbox's namespace when its turn comes.
        self._requests.put((os.dup(netns), family, kind, future))
        return future

    async def connect(
        self, netns: int, family: int, address: tuple[str, int] | bytes
    ) -> socket.socket:
        """Connect a stream socket in a namespace. Raises OSError; TimeoutError after 10 s."""
        future = self.open(netns, family, socket.SOCK_STREAM)
        try:
            sock = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_result)
            raise
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await _connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def dial(self, netns: int, address: str, port: int) -> socket.socket | None:
        """Connect to a TCP port on whichever of its addresses the namespace has it open.

        None when it is open on none of them.
        """
        netns = os.dup(netns)
        try:
            for family, host in (
                (socket.AF_INET, "127.0.0.1"),
                (socket.AF_INET, address),
                (socket.AF_INET6, "::1"),
            ):
                try:
                    return await self.connect(netns, family, (host, port))
                except TimeoutError:
                    return None
                except OSError as error:
                    if error.errno not in _CLOSED:
                        raise
        finally:
            os.close(netns)
        return None

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            if self._thread is not None:
                self._requests.put(None)
                self._thread.join()
                self._thread = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="atoll-netns", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while (request := self._requests.get()) is not None:
                netns, family, kind, future = request
                if not future.set_running_or_notify_cancel():
                    os.close(netns)
                    continue
                try:
                    namespaces.setns(netns, namespaces.CLONE_NEWNET)
                except OSError as error:
                    future.set_exception(error)
                    continue
                finally:
                    os.close(netns)
                result: socket.socket | OSError
                try:
                    result = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                except OSError as error:
                    result = error
                try:
                    namespaces.setns(home, namespaces.CLONE_NEWNET)
                except OSError:
                    # This thread is in the wrong place for good; another takes over.
                    self._start()
                    future.set_exception(RuntimeError("lost in a network namespace"))
                    return
                if isinstance(result, OSError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
                del request, future, result  # else they live until the next request comes
        finally:
            os.close(home)


async def _connect(sock: socket.socket, address: tuple[str, int] | bytes) -> None:
    loop = asyncio.get_running_loop()
    if isinstance(address, tuple):
        await loop.sock_connect(sock, address)
        return
    while True:  # a full backlog of a unix socket is an error at once, not a wait
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
            return
        await asyncio.sleep(_BACKLOG_RETRY_SECONDS)


def _close_result(future: Future[socket.socket]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
