from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from atoll.isolation import namespaces
from atoll.isolation.netlink import Netlink
from atoll.isolation.netns import NamespaceSockets


@pytest.fixture
def netns() -> Iterator[int]:
    """A descriptor of a network namespace without a process."""
    found: list[int] = []

    def make() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    yield found[0]
    os.close(found[0])


@pytest.fixture
def sockets() -> Iterator[NamespaceSockets]:
    """The thread that makes sockets."""
    made = NamespaceSockets()
    yield made
    made.close()
    made.close()


def _links(sockets: NamespaceSockets, netns: int) -> dict[int, str]:
    sock = sockets.open(netns, socket.AF_NETLINK, socket.SOCK_RAW).result()
    sock.setblocking(True)
    with Netlink(sock) as link:
        return link.links()


def test_a_socket_is_in_the_namespace_asked_for(netns: int, sockets: NamespaceSockets) -> None:
    with Netlink() as here:
        own = here.links()
    assert _links(sockets, netns) == {1: "lo"}
    assert len(own) > 1
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert _links(sockets, home) == own
    os.close(home)


def test_what_is_no_namespace_is_an_error_and_the_next_works(
    netns: int, sockets: NamespaceSockets
) -> None:
    with open("/dev/null") as file:
        failing = sockets.open(file.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    with pytest.raises(OSError, match="Invalid argument"):
        failing.result()
    with pytest.raises(OSError, match="not supported"):
        sockets.open(netns, 99, socket.SOCK_STREAM).result()
    assert _links(sockets, netns) == {1: "lo"}


def test_the_callers_descriptor_may_close_at_once(netns: int, sockets: NamespaceSockets) -> None:
    copies = [os.dup(netns) for _ in range(50)]
    waiting = []
    for copy in copies:
        waiting.append(sockets.open(copy, socket.AF_INET, socket.SOCK_STREAM))
        os.close(copy)
    for each in waiting:
        each.result().close()


async def test_a_port_is_found_on_any_loopback_address(
    netns: int, sockets: NamespaceSockets
) -> None:
    link = sockets.open(netns, socket.AF_NETLINK, socket.SOCK_RAW).result()
    link.setblocking(True)
    with Netlink(link) as inside:
        inside.set_up("lo")
        inside.add_address(1, IPv4Address("100.64.9.9"))
    for family, host in (
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "100.64.9.9"),
        (socket.AF_INET6, "::1"),
    ):
        assert await sockets.dial(netns, "100.64.9.9", 8000) is None
        with sockets.open(netns, family, socket.SOCK_STREAM).result() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, 8000))
            listener.listen()
            found = await sockets.dial(netns, "100.64.9.9", 8000)
            assert found is not None
            assert found.getpeername()[0] == host
            found.close()


async def test_a_full_unix_backlog_is_waited_for(netns: int, sockets: NamespaceSockets) -> None:
    with sockets.open(netns, socket.AF_UNIX, socket.SOCK_STREAM).result() as listener:
        listener.bind(b"\0test")
        listener.listen(0)
        first = await sockets.connect(netns, socket.AF_UNIX, b"\0test")
        second = asyncio.create_task(sockets.connect(netns, socket.AF_UNIX, b"\0test"))
        await asyncio.sleep(0.05)
        accepted = [listener.accept()[0]]
        (await second).close()
        first.close()
        accepted[0].close()
