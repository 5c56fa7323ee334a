"""Where webhooks may lead: out of this host's own networks, whatever a client's URL says.

A URL is a client's input, and the server stands where the client does not: it could reach the
host's services, its neighbours, and the cloud's metadata address. So a name is resolved here, and
only addresses that anybody on the internet could reach are connected to: the very ones that were
checked, which leaves nothing to a second, different answer.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from atoll.errors import ConfigurationError, InvalidInput

_NAT64 = IPv6Network("64:ff9b::/96")
_RESOLVING = 16
"""Names that are resolved at the same time. With threads of its own: who runs a name server that
does not answer keeps nothing else waiting."""


class Destinations(AbstractResolver):
    """Says which addresses may be delivered to, and resolves names to none but these."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        """`allow` are networks (CIDR) that are open although private.

        Raises `ConfigurationError` for what is no network.
        """
        try:
            self._allow = tuple(ip_network(each) for each in allow)
        except ValueError as error:
            raise ConfigurationError(
                f"the setting webhook_allow is wrong: {error}",
                remedy="set ATOLL_WEBHOOK_ALLOW to networks such as `10.1.0.0/16`, with commas",
            ) from None
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="webhook-names")

    def check_url(self, url: str) -> None:
        """Check what can be known of a URL before it is used.

        Raises `InvalidInput`. Where a name leads is found out at each delivery.
        """
        try:
            parsed = URL(url)
            host, port = parsed.host, parsed.port
        except ValueError:
            raise InvalidInput("the url is not a URL") from None
        if parsed.scheme not in ("http", "https") or not host or not port:
            raise InvalidInput("the url must begin with http:// or https:// and name a host")
        if parsed.user is not None or parsed.password is not None:
            raise InvalidInput("the url must hold no user name or password")
        try:
            address = ip_address(host)
        except ValueError:
            return
        if not self.is_open(address):
            raise InvalidInput(
                f"webhooks may not lead to {host}: it is no public address",
                remedy="use another, or have ATOLL_WEBHOOK_ALLOW opened for it",
            )

    def is_open(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether an address may be delivered to."""
        inner = _unwrap(address)
        if any(_holds(network, each) for network in self._allow for each in (address, inner)):
            return True
        return _is_public(inner) and _is_public(address) and not _is_own(address)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a name to the addresses that are open. Raises OSError when there is none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        results: list[ResolveResult] = []
        for kind, _, proto, _, where in found:
            address = str(where[0])
            try:
                allowed = self.is_open(ip_address(address))
            except ValueError:
                continue
            if allowed:
                results.append(
                    ResolveResult(
                        hostname=host,
                        host=address,
                        port=port,
                        family=kind,
                        proto=proto,
                        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                    )
                )
        if not results:
            raise PermissionError(errno.EACCES, "the name leads to no public address")
        return results

    async def close(self) -> None:
        """Let go of the threads; what they still wait for is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _unwrap(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _holds(network: IPv4Network | IPv6Network, address: IPv4Address | IPv6Address) -> bool:
    return network.version == address.version and address in network


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and _unwrap(address) is not address:
        return _is_public(_unwrap(address))
    return address.is_global and not address.is_multicast


def _is_own(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is one of this host's own addresses: services on it may count on a firewall."""
    kind = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing: it only chooses a source
        except OSError:
            return False
        return ip_address(probe.getsockname()[0]) == address
