from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from atoll.errors import HostError, InvalidInput
from atoll.isolation.driver import Egress
from atoll.isolation.firewall import Firewall, networks
from atoll.isolation.guard import Guard

TABLE = "atoll_unittest"
BLOCK = IPv4Network("100.127.240.0/20")
BOX = BLOCK[9]


def _rules() -> str:
    done = subprocess.run(["nft", "list", "table", "inet", TABLE], capture_output=True, text=True)
    return done.stdout


@pytest.fixture
async def firewall() -> AsyncIterator[Firewall]:
    """A table for interfaces that do not exist."""
    made = Firewall(TABLE, interfaces="atlunittest", block=BLOCK, gateway=BLOCK[1])
    yield made
    await made.remove()
    assert _rules() == ""


async def test_writing_again_brings_the_same(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    first = _rules()
    assert "1053" in first
    await firewall.install({}, 1053)
    assert _rules() == first


async def test_a_policy_comes_and_goes_without_trace(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    before = _rules()
    for egress in (
        Egress(internet=False),
        Egress(allow=("1.2.3.4",), deny=("1.2.0.0/16", "1.2.3.0/24")),
        Egress(internet=False),
        Egress(deny=("0.0.0.0/0",), allow=("1.2.3.4/31",)),
    ):
        await firewall.set_policy(BOX, egress)
        await firewall.set_policy(BOX, egress)
        assert str(BOX) in _rules()
    await firewall.clear_policy(BOX)
    assert _rules() == before
    await firewall.clear_policy(BOX)
    assert _rules() == before


async def test_policies_are_there_from_the_start(firewall: Firewall) -> None:
    egress = Egress(internet=False)
    await firewall.install({}, 1053)
    await firewall.set_policy(BOX, egress)
    wanted = _rules()
    await firewall.install({BOX: egress}, 1053)
    assert _rules() == wanted


async def test_a_deleted_table_comes_back_with_its_policies(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    await firewall.set_policy(BOX, Egress(internet=False))
    wanted = _rules()
    guard = Guard(firewall)
    guard.start()
    for _ in range(3):
        subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
        async with asyncio.timeout(5):
            while _rules() != wanted:
                await asyncio.sleep(0.01)
    await guard.stop()
    subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
    await asyncio.sleep(0.1)
    assert _rules() == ""


async def test_a_failure_says_why(firewall: Firewall) -> None:
    with pytest.raises(HostError, match="nft failed"):
        await firewall.set_policy(BOX, Egress(internet=False))  # there is no table
    await firewall.clear_policy(BOX)


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4/33", "::1", "1.1.1.1 }", "1,2"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        networks([text])


def test_networks_are_merged() -> None:
    assert networks(["10.0.0.1", "10.0.0.0/8", "10.1.0.0/16", "1.1.1.1"]) == [
        IPv4Network("1.1.1.1/32"),
        IPv4Network("10.0.0.0/8"),
    ]
    assert IPv4Address("10.0.0.1") in networks(["10.0.0.7/24"])[0]
