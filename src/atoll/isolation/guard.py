"""A guard over the firewall's table.

`nft flush ruleset`, with which the services that load a host's own rules begin, deletes every
table, ours too, and sandboxes would reach what they must not. The kernel tells whoever listens of
every table that goes (`linux/netfilter/nf_tables.h`), so ours is back within some milliseconds. It
tells of every rule that comes, too: those services may then load a table of ours that they saved
long ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import structlog

from atoll.isolation.firewall import Firewall

log = structlog.get_logger(__name__)

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_NFTABLES = 7
_DELETE_TABLE, _NEW_RULE = 10 << 8 | 2, 10 << 8 | 6
_HEADER = struct.Struct("=IHHII")
_FAMILY_SIZE = 4
_ATTRIBUTE = struct.Struct("=HH")
_TABLE_NAME = 1
_BUFFER = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0


class Guard:
    """Watches for deleted tables from `start` to `stop`."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._table = firewall.name.encode()
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
        changed = False
        while True:
            try:
                data = sock.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError:  # more was told than there was room for: anything may have happened
                changed = True
                continue
            changed = changed or _tells_of_change(data, self._table)
        if changed:
            self._look()

    def _look(self) -> None:
        self._again = True
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(self._restore())

    async def _restore(self) -> None:
        # Writing the table is told too; looking then finds it there as it was written, and that is
        # the end of it.
        pause = _FIRST_PAUSE
        while self._again:
            self._again = False
            try:
                if await self._firewall.restore():
                    log.warning("firewall.restored")
                pause = _FIRST_PAUSE
            except Exception as error:  # whatever it is: to give up is to leave the host open
                log.error("firewall.restore_failed", error=str(error), next_try_seconds=pause)
                self._again = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _tells_of_change(data: bytes, table: bytes) -> bool:
    """Whether messages tell of any table that was deleted, or of a new rule in this one."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == _DELETE_TABLE:
            return True
        if kind == _NEW_RULE:
            attribute = data[_HEADER.size + _FAMILY_SIZE : length]
            size, name = _ATTRIBUTE.unpack_from(attribute)
            if name == _TABLE_NAME and attribute[_ATTRIBUTE.size : size].rstrip(b"\0") == table:
                return True
        data = data[(max(length, _HEADER.size) + 3) & ~3 :]
    return False
