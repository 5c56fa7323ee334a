"""A guard over the firewall's table.

`nft flush ruleset`, with which the services that load a host's own rules begin, deletes every
table, ours too, and sandboxes would reach what they must not. The kernel tells whoever listens of
every table that goes (`linux/netfilter/nf_tables.h`), so ours is back within some milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from atoll.isolation.firewall import Firewall

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_NFTABLES = 7
_DELETE_TABLE = 10 << 8 | 2
_HEADER = struct.Struct("=IHHII")
_BUFFER = 1 << 20


class Guard:
    """Watches for deleted tables from `start` to `stop`."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._socket: socket.socket | None = None
        self._work: asyncio.Task[None] | None = None
        self._again = False

    def start(self) -> None:
        """Begin to watch."""
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        sock.bind((0, 0))
        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        asyncio.get_running_loop().add_reader(sock, self._read, sock)
        self._socket = sock

    async def stop(self) -> None:
        """Cease to watch."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
            self._work = None

    def _read(self, sock: socket.socket) -> None:
        deleted = False
        while True:
            try:
                data = sock.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError:  # more was told than there was room for: anything may have happened
                deleted = True
                continue
            deleted = deleted or _tells_of_deletion(data)
        if deleted:
            self._look()

    def _look(self) -> None:
        self._again = True
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(self._restore())

    async def _restore(self) -> None:
        # Writing the table tells of a deletion too, the first thing it does; looking then finds it
        # there, and that is the end of it.
        while self._again:
            self._again = False
            await self._firewall.restore()


def _tells_of_deletion(data: bytes) -> bool:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == _DELETE_TABLE:
            return True
        data = data[(max(length, _HEADER.size) + 3) & ~3 :]
    return False
