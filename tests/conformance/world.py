"""A little internet: another network namespace on this host, with services in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from atoll.isolation import namespaces
from atoll.isolation.netlink import Netlink
from atoll.isolation.netns import NamespaceSockets

PUBLIC = "198.51.100.10"
OTHER_PUBLIC = "198.51.101.10"
PRIVATE = "10.213.7.10"
METADATA = "169.254.169.254"
PORT = 7777

_ROUTER = IPv4Address("198.51.100.1")
_NEAR_MAC, _FAR_MAC = bytes.fromhex("020000000a01"), bytes.fromhex("020000000a02")
_LINK = "atlworld"


@dataclass
class World:
    """Every address answers on `PORT`, over TCP by echoing, and counts what it got over UDP."""

    datagrams: list[bytes]


class _Counter(asyncio.DatagramProtocol):
    def __init__(self, seen: list[bytes]) -> None:
        self._seen = seen

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._seen.append(data)


class _Echo(asyncio.Protocol):
    def __init__(self, open_ones: set[asyncio.Transport]) -> None:
        self._open = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self._transport)


@contextlib.asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """Set it up next to the host's real network, and take it down."""
    netns = _new_namespace()
    sockets = NamespaceSockets()
    try:
        _connect(netns, sockets)
        tcp = sockets.open(netns, socket.AF_INET, socket.SOCK_STREAM).result()
        udp = sockets.open(netns, socket.AF_INET, socket.SOCK_DGRAM).result()
        for each in (tcp, udp):
            each.bind(("0.0.0.0", PORT))
        datagrams: list[bytes] = []
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Counter(datagrams), sock=udp)
        clients: set[asyncio.Transport] = set()
        server = await loop.create_server(lambda: _Echo(clients), sock=tcp)
        yield World(datagrams)
        transport.close()
        server.close()
        for client in list(clients):
            client.abort()
        await server.wait_closed()
        await asyncio.sleep(0)
    finally:
        sockets.close()
        with Netlink() as link:
            link.delete_link(_LINK)
        os.close(netns)


def _new_namespace() -> int:
    found: list[int] = []

    def make() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def _connect(netns: int, sockets: NamespaceSockets) -> None:
    inside = sockets.open(netns, socket.AF_NETLINK, socket.SOCK_RAW).result()
    inside.setblocking(True)
    with Netlink() as host, Netlink(inside) as far:
        host.create_veth(
            _LINK, _NEAR_MAC, peer="eth0", peer_mac=_FAR_MAC, peer_netns=netns, mtu=1500
        )
        near = host.index(_LINK)
        host.add_address(near, _ROUTER)
        far.set_up("lo")
        far.set_up("eth0")
        index = far.index("eth0")
        far.add_neighbour(index, _ROUTER, _NEAR_MAC)
        for text in (PUBLIC, OTHER_PUBLIC, PRIVATE, METADATA):
            address = IPv4Address(text)
            far.add_address(index, address)
            host.add_neighbour(near, address, _FAR_MAC)
            host.add_route(near, address, source=_ROUTER)
        far.add_route(index, _ROUTER)
        far.add_route(index, None, gateway=_ROUTER)
