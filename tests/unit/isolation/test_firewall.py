from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from atoll.errors import HostError, InvalidInput
from atoll.isolation.driver import Egress
from atoll.isolation.firewall import CLOSED_RANGES, Firewall, networks
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


async def _until_written(wanted: str) -> None:
    async with asyncio.timeout(5):
        while _rules() != wanted:
            await asyncio.sleep(0.01)


def _chain(name: str) -> list[str]:
    """The rules of a chain in their order."""
    body = _rules().split(f"chain {name} {{")[1].split("}\n\n")[0]
    return [line.strip() for line in body.splitlines() if line.strip()]


async def test_no_policy_stands_before_the_bounds(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    outward, inward = _chain("from_sandbox"), _chain("from_sandbox_to_host")
    for rules in (outward, inward):
        assert rules[0] == "ct state invalid drop"
    assert "ct count over 8192" in outward[1]
    assert "limit rate over" in inward[1]
    assert "ct count over 1024" in inward[2]


@pytest.mark.parametrize("commands", [["flush", "load"], ["load"], ["delete", "load"]])
async def test_an_old_table_that_is_loaded_again_does_not_stay(
    firewall: Firewall, tmp_path: Path, commands: list[str]
) -> None:
    await firewall.install({}, 1053)
    saved = tmp_path / "saved"
    head = f"delete table inet {TABLE}\n" if commands[0] == "flush" else ""
    saved.write_text(head + _rules())
    await firewall.install({}, 2053)
    await firewall.set_policy(BOX, Egress(internet=False))
    wanted = _rules()
    guard = Guard(firewall)
    guard.start()
    if commands[0] == "delete":
        subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
    subprocess.run(["nft", "-f", str(saved)], check=True)
    await asyncio.sleep(0.05)
    await _until_written(wanted)
    await guard.stop()


async def test_the_guard_does_not_give_up(
    firewall: Firewall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await firewall.install({}, 1053)
    wanted = _rules()
    guard = Guard(firewall)
    guard.start()
    with monkeypatch.context() as patch:
        broken = tmp_path / "nft"
        broken.write_text(f"#!/bin/sh\necho >> {tmp_path}/tried; echo no memory >&2; exit 1\n")
        broken.chmod(0o755)
        subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
        patch.setenv("PATH", str(tmp_path), prepend=":")
        async with asyncio.timeout(5):
            while not (tmp_path / "tried").exists():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    await _until_written(wanted)
    await guard.stop()


async def test_an_undisturbed_guard_writes_nothing(firewall: Firewall) -> None:
    guard = Guard(firewall)
    guard.start()
    await firewall.install({}, 1053)
    await firewall.set_policy(BOX, Egress(deny=("1.2.3.4",)))
    assert not await firewall.restore()
    await asyncio.sleep(0.2)
    with subprocess.Popen(["nft", "monitor"], stdout=subprocess.PIPE, text=True) as monitor:
        await asyncio.sleep(0.3)
        monitor.terminate()
        assert monitor.stdout is not None
        assert TABLE not in monitor.stdout.read()
    await guard.stop()


async def test_what_nft_refused_is_not_remembered(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    before = _rules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(HostError, match="not installed"):
            await firewall.set_policy(BOX, Egress(internet=False))
    subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
    assert await firewall.restore()
    assert _rules() == before


async def test_changes_at_the_same_time_are_all_there_after(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    boxes = [BLOCK[number] for number in range(10, 22)]
    egress = Egress(internet=False)

    async def disturb() -> None:
        for _ in range(4):
            subprocess.run(["nft", "delete", "table", "inet", TABLE], check=False)
            await firewall.restore()

    await asyncio.gather(disturb(), *(firewall.set_policy(each, egress) for each in boxes))
    assert not await firewall.restore()
    found = _rules()
    assert all(f"{each} : jump" in found for each in boxes)
    await firewall.install(dict.fromkeys(boxes, egress), 1053)
    assert {*_rules().splitlines()} == {*found.splitlines()}


async def test_a_cancelled_change_is_known(firewall: Firewall) -> None:
    await firewall.install({}, 1053)
    task = asyncio.create_task(firewall.set_policy(BOX, Egress(internet=False)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not await firewall.restore()


def test_the_metadata_of_every_cloud_is_closed() -> None:
    closed = networks(CLOSED_RANGES)
    for text in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"):
        assert any(IPv4Address(text) in each for each in closed), text


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
