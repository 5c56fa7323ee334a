"""Which IPv4 addresses the sandboxes of a server have."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

from atoll.errors import ConfigurationError, HostError, Overloaded

SHARED_SPACE = IPv4Network("100.64.0.0/10")
"""The range of RFC 6598, which no host on the internet and few in private networks have."""

_BLOCK_PREFIX = 20
_WIDEST, _NARROWEST = 16, 28


class AddressPool:
    """Hands out the addresses of a block in turn, all others before one comes again.

    So no packet is still under way that was meant for the last owner.
    """

    def __init__(self, block: IPv4Network) -> None:
        self.block = block
        self.gateway = block[1]
        """The host's own address in the block."""
        self._taken: set[IPv4Address] = set()
        self._next = self._rotate()

    def take(self) -> IPv4Address:
        """Hand out a free address. Raises `Overloaded` when there is none."""
        for address in itertools.islice(self._next, self.block.num_addresses):
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise Overloaded(f"all addresses of {self.block} are in use", remedy="set a larger network")

    def reserve(self, address: IPv4Address) -> None:
        """Mark an address that a sandbox has already."""
        self._taken.add(address)

    def release(self, address: IPv4Address) -> None:
        """Take an address back; one that is free already stays so."""
        self._taken.discard(address)

    def _rotate(self) -> Iterator[IPv4Address]:
        first, last = int(self.block[2]), int(self.block[-2])
        return itertools.cycle(map(IPv4Address, range(first, last + 1)))


def read_block(text: str) -> IPv4Network:
    """Read the operator's setting. Raises `ConfigurationError`."""
    try:
        block = IPv4Network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"network {text!r} is not an IPv4 network: {error}",
            remedy="give one in CIDR form, such as 100.64.16.0/20",
        ) from None
    if not _WIDEST <= block.prefixlen <= _NARROWEST:
        raise ConfigurationError(
            f"network {text!r} is too large or too small",
            remedy=f"use a prefix length from {_WIDEST} to {_NARROWEST}",
        )
    return block


def collides(block: IPv4Network, routed: Collection[IPv4Network]) -> bool:
    """Whether a block overlaps what there is a route to, the default route aside."""
    return any(network.prefixlen > 0 and block.overlaps(network) for network in routed)


def choose_block(instance: str, routed: Collection[IPv4Network]) -> IPv4Network:
    """Find a block that overlaps nothing this host has a route to.

    `instance` decides where the search begins, so that servers on one host seldom want the same.
    Raises `HostError` when there is none.
    """
    blocks = list(SHARED_SPACE.subnets(new_prefix=_BLOCK_PREFIX))
    start = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:4], "big") % len(blocks)
    for block in blocks[start:] + blocks[:start]:
        if not collides(block, routed):
            return block
    raise HostError(
        f"no part of {SHARED_SPACE} is free on this host", remedy="set `network` to a free block"
    )
