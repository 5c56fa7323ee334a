from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from atoll.errors import ConfigurationError, HostError, Overloaded
from atoll.isolation.addresses import (
    SHARED_SPACE,
    AddressPool,
    choose_block,
    collides,
    read_block,
)


def test_addresses_are_handed_out_once() -> None:
    pool = AddressPool(IPv4Network("100.64.0.0/29"))
    assert pool.gateway == IPv4Address("100.64.0.1")
    taken = [pool.take() for _ in range(5)]
    assert [str(each) for each in taken] == [f"100.64.0.{number}" for number in range(2, 7)]
    with pytest.raises(Overloaded):
        pool.take()
    pool.release(taken[3])
    pool.release(taken[0])
    assert {pool.take(), pool.take()} == {taken[0], taken[3]}


def test_a_released_address_rests() -> None:
    pool = AddressPool(IPv4Network("100.64.0.0/28"))
    first = pool.take()
    pool.release(first)
    assert pool.take() != first


def test_a_reserved_address_is_not_handed_out() -> None:
    pool = AddressPool(IPv4Network("100.64.0.0/30"))
    pool.reserve(IPv4Address("100.64.0.2"))
    with pytest.raises(Overloaded):
        pool.take()


@pytest.mark.parametrize("text", ["", "x", "100.64.0.1/20", "100.64.0.0/8", "10.0.0.0/30", "::/64"])
def test_a_bad_block_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_block(text)


def test_a_block_avoids_what_has_a_route() -> None:
    first = choose_block("a", [])
    assert first.subnet_of(SHARED_SPACE)
    assert choose_block("a", [IPv4Network("0.0.0.0/0")]) == first
    assert collides(first, [IPv4Network((first[5], 32))])
    assert not collides(first, [IPv4Network("0.0.0.0/0")])
    other = choose_block("a", [first.supernet(new_prefix=18)])
    assert not other.overlaps(first)
    with pytest.raises(HostError):
        choose_block("a", [SHARED_SPACE])
