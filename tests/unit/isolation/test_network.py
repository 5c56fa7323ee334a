from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from atoll.errors import ConfigurationError
from atoll.isolation.driver import Egress
from atoll.isolation.netlink import Netlink
from atoll.isolation.network import Network

OTHERS_LINK = "atlnettest"

Make = Callable[..., Network]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes networks with the same state, one after the other, as a server that starts again."""
    made: list[Network] = []

    def one(block: str | None = None) -> Network:
        made.append(
            Network("feed123", tmp_path / "network", block=block, dns=(), allow=(), deny=())
        )
        return made[-1]

    yield one
    for each in made[:-1]:
        await each.stop()
    if made:
        await made[-1].remove()
    with Netlink() as link:
        link.delete_link(OTHERS_LINK)
        assert "atlfeed123g" not in link.links().values()


async def _block(network: Network, *in_use: IPv4Address) -> IPv4Network:
    await network.start(dict.fromkeys(in_use, Egress()))
    await network.stop()
    return network.addresses.block


def _route(address: IPv4Address) -> None:
    """Let something else of this host have an address."""
    with Netlink() as link:
        link.create_bridge(OTHERS_LINK)
        link.add_address(link.index(OTHERS_LINK), address)


def _routes() -> set[IPv4Address]:
    with Netlink() as link:
        return {address for address, prefix in link.routes() if prefix == 32}


async def test_a_server_that_starts_again_keeps_its_block(make: Make) -> None:
    first = await _block(make())
    assert first[1] in _routes()
    assert await _block(make()) == first


async def test_a_block_that_something_else_uses_now_is_given_up(make: Make) -> None:
    first = await _block(make())
    _route(first[77])
    second = await _block(make())
    assert not second.overlaps(first)
    assert second[1] in _routes()
    assert first[1] not in _routes()
    assert await _block(make()) == second


async def test_a_block_with_sandboxes_is_kept(make: Make) -> None:
    first = await _block(make())
    _route(first[77])
    assert await _block(make(), first[9]) == first


async def test_the_block_may_change_when_no_sandbox_runs(make: Make) -> None:
    first = await _block(make())
    with pytest.raises(ConfigurationError):
        await make("100.99.0.0/24").start({first[9]: Egress()})
    network = make("100.99.0.0/24")
    # Records of an earlier boot hold their addresses until they are removed.
    await network.start({}, reserved=[first[9], IPv4Address("100.99.0.2")])
    assert network.addresses.block == IPv4Network("100.99.0.0/24")
    assert network.addresses.take() == IPv4Address("100.99.0.3")
