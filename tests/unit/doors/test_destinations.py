"""Where webhooks may lead."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from atoll.doors.e2b.destinations import Destinations
from atoll.errors import ConfigurationError, InvalidInput


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.8"),
        *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        # IPv4 addresses in the clothes of IPv6 ones.
        *("::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "2002:a00:1::1"),
    ],
)
def test_what_is_not_public_is_shut(address: str) -> None:
    assert not Destinations().is_open(ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"])
def test_what_is_public_is_open(address: str) -> None:
    assert Destinations().is_open(ip_address(address))


def test_what_the_operator_allows_is_open() -> None:
    destinations = Destinations(["10.1.0.0/16"])
    assert destinations.is_open(ip_address("10.1.2.3"))
    assert destinations.is_open(ip_address("::ffff:10.1.2.3"))
    assert not destinations.is_open(ip_address("10.2.0.1"))
    with pytest.raises(ConfigurationError, match="ATOLL_WEBHOOK_ALLOW"):
        Destinations(["localhost"])


def test_this_hosts_own_addresses_are_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    # No host here has a public address of its own: let a private one pass for public.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no network")
        own = probe.getsockname()[0]
    monkeypatch.setattr("atoll.doors.e2b.destinations._is_public", lambda _: True)
    assert not Destinations().is_open(ip_address(own))
    assert Destinations().is_open(ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "file:///etc/passwd", "http://", "http://a:b@c/", "http://10.0.0.1:80/"],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Destinations().check_url(url)


async def test_names_are_resolved_to_open_addresses_only() -> None:
    shut, opened = Destinations(), Destinations(["127.0.0.0/8"])
    try:
        with pytest.raises(OSError, match="no public address"):
            await shut.resolve("localhost", 80)
        found = await opened.resolve("localhost", 80, socket.AF_UNSPEC)
        assert {each["host"] for each in found} == {"127.0.0.1"}
    finally:
        await shut.close()
        await opened.close()
