"""The network of sandboxes: a point-to-point link from each to the host, nothing between them.

    sandbox eth0 ── veth ── host: route to this one address, firewall, NAT ── the world

There is no bridge: sandboxes share no segment on which they could see or address one another. All
of them know the host by one gateway address, which lies on an interface without any port. Hardware
addresses are fixed on both sides, so nobody ever asks for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from atoll.errors import ConfigurationError, HostError
from atoll.isolation.addresses import AddressPool, choose_block, collides, read_block
from atoll.isolation.dns import DnsForwarder
from atoll.isolation.driver import Egress
from atoll.isolation.firewall import Firewall
from atoll.isolation.guard import Guard
from atoll.isolation.mounts import STAGE
from atoll.isolation.netlink import Netlink
from atoll.isolation.netns import NamespaceSockets

TABLE_PREFIX = "atoll_"

_INTERFACE = "eth0"
_GATEWAY_MAC = bytes.fromhex("0200000000fe")
_MAC_PREFIX = b"\x02\x00"
_DEFAULT_MTU = 1500
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_FORWARD_MARK = STAGE / "forwarding-was-off"
_GATEWAY_LINK = re.compile("atl[0-9a-f]{7}g")
_GONE_SECONDS = 0.5
_POLL_SECONDS = 0.0005


class Network:
    """The network of the sandboxes of one server."""

    def __init__(
        self,
        instance: str,
        state: Path,
        *,
        block: str | None,
        dns: tuple[str, ...],
        allow: tuple[str, ...],
        deny: tuple[str, ...],
    ) -> None:
        self._instance = instance
        self._state = state
        self._wanted_block = read_block(block) if block else None
        self._dns = dns
        self._operator = (allow, deny)
        self._gateway_link = f"atl{instance}g"
        self._sandbox_links = f"atl{instance}s"
        self._mtu = _DEFAULT_MTU
        self._forwarder: DnsForwarder | None = None
        self._guard: Guard | None = None
        self.sockets = NamespaceSockets()
        self.addresses = AddressPool(self._read_block() or IPv4Network("100.64.0.0/20"))
        self.firewall = self._make_firewall()

    async def start(
        self, in_use: Mapping[IPv4Address, Egress], reserved: Collection[IPv4Address] = ()
    ) -> None:
        """Set up what the sandboxes share; those that have addresses already keep what they have.

        `in_use` are the addresses of sandboxes that were started since the host was; `reserved`
        are others that are not to be handed out until they are released.

        Raises `HostError`, and `ConfigurationError` when the block changed under them.
        """
        with _HostLock(), Netlink() as link:
            before = self._read_block()
            block = self._wanted_block or before
            if block is None:
                block = choose_block(self._instance, _routed(link))
            elif not in_use and self._wanted_block is None:
                # What the host is connected to may have changed since.
                others = self._routed_by_others(link, block)
                if collides(block, others):
                    block = choose_block(self._instance, others)
            if in_use and before is not None and before != block:
                raise ConfigurationError(
                    f"sandboxes still run in the network {before}",
                    remedy=f"end them before changing it to {block}",
                )
            self._state.write_text(f"{block}\n")
            if block != self.addresses.block:
                self.addresses = AddressPool(block)
                self.firewall = self._make_firewall()
            if before not in (None, block):
                link.delete_link(self._gateway_link)  # it has the gateway address of before
            link.create_bridge(self._gateway_link)
            link.add_address(link.index(self._gateway_link), self.addresses.gateway)
            _turn_forwarding_on()
        self._mtu = _uplink_mtu()
        self._forwarder = DnsForwarder(block, self._dns)
        port = await self._forwarder.start(self.addresses.gateway)
        own = {address: egress for address, egress in in_use.items() if not egress.is_default}
        await self.firewall.install(own, port)
        for address in (*in_use, *reserved):
            self.addresses.reserve(address)
        self._guard = Guard(self.firewall)
        self._guard.start()

    async def stop(self) -> None:
        """Stop answering questions about names and guarding the rules; links and rules stay."""
        if self._guard is not None:
            await self._guard.stop()
            self._guard = None
        if self._forwarder is not None:
            await self._forwarder.stop()
            self._forwarder = None
        self.sockets.close()

    async def remove(self) -> None:
        """Remove what `start` set up."""
        await self.stop()
        await self.firewall.remove()
        with _HostLock(), Netlink() as link:
            link.delete_link(self._gateway_link)
            if not any(_GATEWAY_LINK.fullmatch(name) for name in link.links().values()):
                _leave_host()
        self._state.unlink(missing_ok=True)

    def attach(self, address: IPv4Address, netns: int) -> None:
        """Give a namespace its link, address and routes. Blocks for about a millisecond."""
        gateway = self.addresses.gateway
        mac = _MAC_PREFIX + address.packed
        inside = self.sockets.open(netns, socket.AF_NETLINK, socket.SOCK_RAW).result()
        inside.setblocking(True)
        with Netlink(inside) as sandbox, Netlink() as host:
            name = self._link(address)
            host.create_veth(
                name,
                _GATEWAY_MAC,
                peer=_INTERFACE,
                peer_mac=mac,
                peer_netns=netns,
                mtu=self._mtu,
            )
            index = host.index(name)
            host.add_neighbour(index, address, mac)
            host.add_route(index, address, source=gateway)
            sandbox.set_up(_INTERFACE)
            index = sandbox.index(_INTERFACE)
            sandbox.add_address(index, address)
            sandbox.add_neighbour(index, gateway, _GATEWAY_MAC)
            sandbox.add_route(index, gateway)
            sandbox.add_route(index, None, gateway=gateway)

    def detach(self, address: IPv4Address) -> None:
        """See to it that a sandbox's link is gone. Blocks.

        The kernel removes it by itself when the namespace ends, within a millisecond or two; doing
        it by hand takes twenty, as it waits for every processor.
        """
        deadline = time.monotonic() + _GONE_SECONDS
        with Netlink() as link:
            while time.monotonic() < deadline:
                try:
                    link.index(self._link(address))
                except OSError:
                    return
                time.sleep(_POLL_SECONDS)
            link.delete_link(self._link(address))

    def _link(self, address: IPv4Address) -> str:
        return f"{self._sandbox_links}{int(address) & 0xFFFF:x}"  # no block has more addresses

    def _routed_by_others(self, link: Netlink, block: IPv4Network) -> list[IPv4Network]:
        names = set(link.links().values())

        def is_own(network: IPv4Network) -> bool:
            if network.prefixlen < 32 or not network.subnet_of(block):
                return False
            address = network.network_address
            name = self._gateway_link if address == block[1] else self._link(address)
            return name in names

        return [network for network in _routed(link) if not is_own(network)]

    def _make_firewall(self) -> Firewall:
        allow, deny = self._operator
        return Firewall(
            TABLE_PREFIX + self._instance,
            interfaces=self._sandbox_links,
            block=self.addresses.block,
            gateway=self.addresses.gateway,
            allow=allow,
            deny=deny,
        )

    def _read_block(self) -> IPv4Network | None:
        try:
            return IPv4Network(self._state.read_text().strip())
        except (OSError, ValueError):
            return None


class _HostLock:
    """Held while what all servers on this host share is looked at and changed."""

    def __enter__(self) -> None:
        while True:
            STAGE.mkdir(mode=0o711, exist_ok=True)
            descriptor = os.open(STAGE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), STAGE.stat()):
                    self._descriptor = descriptor
                    return
            os.close(descriptor)  # the last server removed it while this one waited

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _routed(link: Netlink) -> list[IPv4Network]:
    return [IPv4Network((address, prefix), strict=False) for address, prefix in link.routes()]


def _uplink_mtu() -> int:
    """What fits through the interface of the default route."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        name, destination = line.split()[:2]
        if destination == "00000000":
            return int(Path(f"/sys/class/net/{name}/mtu").read_text())
    return _DEFAULT_MTU


def _turn_forwarding_on() -> None:
    """Let the host pass packets on, which replies to sandboxes need on every interface.

    A mark is left when it was off, as whoever removes the last server's network turns it off again.
    """
    if _FORWARD.read_text().strip() == "1":
        return
    try:
        _FORWARD_MARK.touch()
        _FORWARD.write_text("1")
    except OSError as error:
        raise HostError(
            f"cannot turn on IPv4 forwarding: {error.strerror}",
            remedy="run on the host: sysctl -w net.ipv4.ip_forward=1",
        ) from error


def _leave_host() -> None:
    """Undo, as the last server, what the first one did to the host."""
    if _FORWARD_MARK.exists():
        _FORWARD.write_text("0")
        _FORWARD_MARK.unlink()
    # Not while another server runs: that would unmount what it has mounted there.
    with contextlib.suppress(OSError):
        STAGE.rmdir()
