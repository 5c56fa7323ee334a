"""The part of rtnetlink that sandboxes' networks need, spoken in-process.

A message round trip costs tens of microseconds; an `ip` command costs milliseconds, and there are
several per sandbox. The numbers are the kernel's ABI: `linux/rtnetlink.h`, `linux/if_link.h`,
`linux/if_addr.h`, `linux/neighbour.h`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address

_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _NEW_ROUTE, _GET_ROUTE, _NEW_NEIGHBOUR = 20, 24, 26, 28

_LINK_ADDRESS, _LINK_NAME, _LINK_MTU, _LINK_INFO = 1, 3, 4, 18
_LINK_AF_SPEC, _LINK_NETNS_FD = 26, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET6_ADDRESS_MODE, _ADDRESS_MODE_NONE = 8, 1

_UP = 0x1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_TABLE_MAIN, _PROTOCOL_STATIC, _UNICAST = 254, 4, 1
_NEIGHBOUR_PERMANENT = 0x80
_SIOCGIFINDEX = 0x8933

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Netlink:
    """One rtnetlink socket; everything happens in the network namespace the socket was made in."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        """`sock` is an AF_NETLINK socket of another namespace; without it, the caller's own."""
        self._socket = sock or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def index(self, name: str) -> int:
        """The number of an interface. Raises OSError (ENODEV) when there is none of that name."""
        request = struct.pack("16si20x", name.encode(), 0)
        return int(struct.unpack("16si20x", fcntl.ioctl(self._socket, _SIOCGIFINDEX, request))[1])

    def create_bridge(self, name: str) -> None:
        """Make a bridge, up; EEXIST is passed over."""
        with contextlib.suppress(FileExistsError):
            self._ask(_NEW_LINK, _CREATE | _EXCLUSIVE, _link(name, _kind("bridge"), up=True))

    def create_veth(
        self, name: str, mac: bytes, *, peer: str, peer_mac: bytes, peer_netns: int, mtu: int
    ) -> None:
        """Make a veth pair, the near end up, the far end in the namespace of the given descriptor.

        The near end gets no automatic IPv6 address; the far one does what its namespace says.
        """
        far = _link(
            peer,
            _attribute(_LINK_ADDRESS, peer_mac),
            _attribute(_LINK_MTU, struct.pack("=I", mtu)),
            _attribute(_LINK_NETNS_FD, struct.pack("=I", peer_netns)),
        )
        near = _link(
            name,
            _attribute(_LINK_ADDRESS, mac),
            _attribute(_LINK_MTU, struct.pack("=I", mtu)),
            _kind("veth", _attribute(_VETH_PEER, far)),
        )
        self._ask(_NEW_LINK, _CREATE | _EXCLUSIVE, near)
        # A link may be told so only after it exists, and has its address as soon as it is up.
        no_address = _attribute(_INET6_ADDRESS_MODE, bytes([_ADDRESS_MODE_NONE]))
        inet6 = _attribute(_LINK_AF_SPEC, _attribute(socket.AF_INET6, no_address))
        with contextlib.suppress(OSError):  # a host without IPv6 does not know the family
            self._ask(_NEW_LINK, 0, _link(name, inet6))
        self.set_up(name)

    def set_up(self, name: str) -> None:
        """Bring an interface up."""
        self._ask(_NEW_LINK, 0, _link(name, up=True))

    def delete_link(self, name: str) -> bool:
        """Remove an interface; False when there was none."""
        try:
            self._ask(_DELETE_LINK, 0, _link(name))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def links(self) -> dict[int, str]:
        """The names of all interfaces, by number."""
        found: dict[int, str] = {}
        for body in self._dump(_GET_LINK, _link(None)):
            name = _attributes(body[16:]).get(_LINK_NAME, b"")
            found[struct.unpack_from("=i", body, 4)[0]] = name.rstrip(b"\0").decode()
        return found

    def add_address(self, index: int, address: IPv4Address, prefix: int = 32) -> None:
        """Give an interface an address; EEXIST is passed over."""
        body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, _SCOPE_UNIVERSE, index)
        body += _attribute(2, address.packed) + _attribute(1, address.packed)
        with contextlib.suppress(FileExistsError):
            self._ask(_NEW_ADDRESS, _CREATE | _EXCLUSIVE, body)

    def add_neighbour(self, index: int, address: IPv4Address, mac: bytes) -> None:
        """Fix the hardware address of a neighbour, so that nobody is ever asked for it."""
        body = struct.pack("=BxxxiHBB", socket.AF_INET, index, _NEIGHBOUR_PERMANENT, 0, _UNICAST)
        body += _attribute(1, address.packed) + _attribute(2, mac)
        self._ask(_NEW_NEIGHBOUR, _CREATE, body)

    def add_route(
        self,
        index: int,
        destination: IPv4Address | None,
        *,
        gateway: IPv4Address | None = None,
        source: IPv4Address | None = None,
    ) -> None:
        """Route one address, or with None everything, through an interface."""
        scope = _SCOPE_UNIVERSE if gateway else _SCOPE_LINK
        prefix = 32 if destination else 0
        body = struct.pack(
            "=BBBBBBBBI",
            socket.AF_INET,
            prefix,
            0,
            0,
            _TABLE_MAIN,
            _PROTOCOL_STATIC,
            scope,
            _UNICAST,
            0,
        )
        if destination:
            body += _attribute(1, destination.packed)
        body += _attribute(4, struct.pack("=i", index))
        if gateway:
            body += _attribute(5, gateway.packed)
        if source:
            body += _attribute(7, source.packed)
        self._ask(_NEW_ROUTE, _CREATE, body)

    def routes(self) -> list[tuple[IPv4Address, int]]:
        """Destination and prefix length of every IPv4 route of every table."""
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        found = []
        for answer in self._dump(_GET_ROUTE, body):
            destination = _attributes(answer[12:]).get(1, bytes(4))
            found.append((IPv4Address(destination), answer[1]))
        return found

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, _REQUEST | _ACK | flags, body)
        for answer_kind, answer in self._receive():
            if answer_kind == _ERROR:
                _raise_error(answer)
                return

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self._send(kind, _REQUEST | _DUMP, body)
        found: list[bytes] = []
        while True:
            for answer_kind, answer in self._receive():
                if answer_kind == _DONE:
                    return found
                if answer_kind == _ERROR:
                    _raise_error(answer)
                found.append(answer)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._socket.sendto(header + body, (0, 0))

    def _receive(self) -> list[tuple[int, bytes]]:
        data = self._socket.recv(1 << 17)
        answers = []
        while len(data) >= _HEADER.size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            if sequence == self._sequence:
                answers.append((kind, data[_HEADER.size : length]))
            data = data[(length + 3) & ~3 :]
        return answers


def _raise_error(answer: bytes) -> None:
    number = -struct.unpack_from("=i", answer)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(padding)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _kind(kind: str, data: bytes = b"") -> bytes:
    inner = _attribute(_INFO_KIND, kind.encode())
    return _attribute(_LINK_INFO, inner + (_attribute(_INFO_DATA, data) if data else b""))


def _link(name: str | None, *attributes: bytes, up: bool = False) -> bytes:
    flags = _UP if up else 0
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, flags, flags)
    if name is not None:
        body += _attribute(_LINK_NAME, name.encode() + b"\0")
    return body + b"".join(attributes)


__all__: Sequence[str] = ["Netlink"]
