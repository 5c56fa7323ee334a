"""What a sandbox reaches, and who reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.errors import InvalidInput
from atoll.isolation.dns import Resolvers
from atoll.isolation.driver import Driver, Egress
from tests.conformance.box import Box
from tests.conformance.conftest import MakeBox
from tests.conformance.kinds import Kind
from tests.conformance.world import (
    METADATA,
    OTHER_PUBLIC,
    PORT,
    PRIVATE,
    PUBLIC,
    World,
    open_world,
)

REFUSED = ("ECONNREFUSED", "EACCES", "EHOSTUNREACH", "ENETUNREACH")
NAME = "deb.debian.org"


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[World]:
    """Hosts outside."""
    async with open_world() as made:
        yield made


@pytest.fixture
async def listener() -> AsyncIterator[int]:
    """The port of a service that listens on all addresses of this host."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "", 0, backlog=100)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_the_internet_is_reached_by_address_and_name(box: Box, world: World) -> None:
    assert await box.connect(PUBLIC, PORT) == "open"
    assert await box.check(f"getent hosts {NAME}")
    assert await box.check(f"curl -sS -o /dev/null -w ok -m 20 http://{NAME}/") == "ok"


@pytest.mark.parametrize("address", [PRIVATE, METADATA, "10.0.0.1", "192.168.1.1", "172.17.0.1"])
async def test_private_and_metadata_addresses_are_shut(
    box: Box, world: World, address: str
) -> None:
    assert await box.connect(address, PORT) in REFUSED


async def test_no_resolver_of_the_host_is_reached_itself(box: Box) -> None:
    for resolver in Resolvers().current():
        if not resolver.startswith("127."):
            assert await box.connect(resolver, 53) != "open"


async def test_names_are_resolved_over_tcp_too(box: Box) -> None:
    program = f"""
        import socket, struct
        server = open("/etc/resolv.conf").read().split()[1]
        name = b"".join(bytes([len(part)]) + part for part in b"{NAME}".split(b"."))
        question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">BHH", 0, 1, 1)
        with socket.create_connection((server, 53), 5) as sock:
            for _ in range(2):
                sock.sendall(struct.pack(">H", len(question)) + question)
                answer = sock.recv(4096)
                print(answer[2:4] == b"\\0\\7", answer[4] >> 7, answer[5] & 15, answer[9] > 0)
        """
    assert await box.python(program) == "True 1 0 True\nTrue 1 0 True"


async def test_nothing_else_of_the_host_is_reached(box: Box, listener: int) -> None:
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    gateway = await box.check("ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'")
    for address in {*addresses, gateway}:
        assert await box.connect(address, listener, timeout=1) != "open", address
        assert not await box.ping(address), address
    # Its own loopback is its own.
    assert await box.connect("127.0.0.1", listener) == "ECONNREFUSED"


async def test_sandboxes_do_not_reach_each_other(make_box: MakeBox, world: World) -> None:
    one, other = await make_box(), await make_box()
    async with other.background("python3 -m http.server 8000 --directory /etc"):
        while (await other.connect("127.0.0.1", 8000)) != "open":
            await asyncio.sleep(0.05)
        assert await one.connect(other.instance.address, 8000) in REFUSED
        await one.run(f"echo x > /dev/udp/{other.instance.address}/8000")
        # The abstract sockets of one, the agent's among them, do not exist for the other.
        seen = await one.check("cat /proc/net/unix")
        assert seen.count("@atoll") <= 2


async def test_nobody_reaches_a_sandbox_by_its_address(box: Box) -> None:
    async with box.background("python3 -m http.server 8000 --directory /etc"):
        while (await box.connect(box.instance.address, 8000)) != "open":
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(socket.create_connection, (box.instance.address, 8000), 1)


async def test_there_is_no_ipv6_but_on_loopback(box: Box) -> None:
    assert await box.check("ip -6 addr show dev eth0") == ""
    assert "::1" in await box.check("ip -6 addr show dev lo")
    assert await box.connect("2001:db8::1", 80) != "open"


async def test_without_internet_nothing_is_reached(box: Box, world: World) -> None:
    await box.driver.set_egress(box.instance, Egress(internet=False))
    assert await box.connect(PUBLIC, PORT) != "open"
    assert (await box.run(f"getent hosts {NAME}", timeout=30)).exit_code != 0
    world.datagrams.clear()
    await box.run(f"echo secret > /dev/udp/{PUBLIC}/{PORT}")
    assert not await box.ping(PUBLIC)
    assert world.datagrams == []
    await box.driver.set_egress(box.instance, Egress())
    assert await box.connect(PUBLIC, PORT) == "open"
    assert await box.check(f"getent hosts {NAME}")
    await box.run(f"echo hello > /dev/udp/{PUBLIC}/{PORT}")
    await asyncio.sleep(0.2)
    assert world.datagrams == [b"hello\n"]
    assert await box.ping(PUBLIC)


async def test_a_policy_holds_for_open_connections(box: Box, world: World) -> None:
    program = f"""
        import socket, time
        with socket.create_connection(("{PUBLIC}", {PORT}), 3) as sock:
            sock.settimeout(1.5)
            sock.sendall(b"a"); print(sock.recv(1).decode(), flush=True)
            open("/tmp/connected", "w").close()
            while not __import__("os").path.exists("/tmp/go"): time.sleep(0.02)
            try:
                sock.sendall(b"b"); print(sock.recv(1).decode())
            except OSError as error:
                print("cut")
        """
    task = asyncio.create_task(box.python(program))
    await box.check("until [ -e /tmp/connected ]; do sleep 0.02; done")
    await box.driver.set_egress(box.instance, Egress(deny=(PUBLIC,)))
    await box.check("touch /tmp/go")
    assert await task == "a\ncut"


async def test_allowing_wins_over_denying(box: Box, world: World) -> None:
    await box.driver.set_egress(box.instance, Egress(deny=("198.51.0.0/16",)))
    assert await box.connect(PUBLIC, PORT) in REFUSED
    assert await box.connect(OTHER_PUBLIC, PORT) in REFUSED
    assert await box.check(f"getent hosts {NAME}")
    await box.driver.set_egress(box.instance, Egress(allow=(PUBLIC,), deny=("0.0.0.0/0",)))
    assert await box.connect(PUBLIC, PORT) == "open"
    assert await box.connect(OTHER_PUBLIC, PORT) in REFUSED
    assert (await box.run(f"getent hosts {NAME}", timeout=30)).exit_code != 0
    await box.driver.set_egress(box.instance, Egress(internet=False, allow=(OTHER_PUBLIC,)))
    assert await box.connect(PUBLIC, PORT) in REFUSED
    assert await box.connect(OTHER_PUBLIC, PORT) == "open"


async def test_a_policy_is_one_sandboxs_own(make_box: MakeBox, world: World) -> None:
    one, other = await make_box(), await make_box()
    await one.driver.set_egress(one.instance, Egress(internet=False))
    assert await one.connect(PUBLIC, PORT) != "open"
    assert await other.connect(PUBLIC, PORT) == "open"


async def test_a_policy_opens_nothing_that_is_shut(
    make_box: MakeBox, box: Box, world: World, listener: int
) -> None:
    other = await make_box()
    await box.driver.set_egress(box.instance, Egress(allow=("0.0.0.0/0",)))
    assert await box.connect(PRIVATE, PORT) in REFUSED
    assert await box.connect(METADATA, PORT) in REFUSED
    assert await box.connect(other.instance.address, 8000) in REFUSED
    host = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()[0]
    assert await box.connect(host, listener, timeout=1) != "open"


@pytest.mark.parametrize("text", ["x", "1.2.3.4/33", "::1", "1.2.3", "1.2.3.4; drop", ""])
async def test_what_is_no_network_is_refused(box: Box, text: str) -> None:
    with pytest.raises(InvalidInput):
        await box.driver.set_egress(box.instance, Egress(deny=(text,)))
    assert await box.check("echo alive") == "alive"


@contextlib.asynccontextmanager
async def _started(kind: Kind, state: Path, **options: tuple[str, ...]) -> AsyncIterator[Driver]:
    driver = kind.make(state, **options)
    await driver.start()
    try:
        yield driver
    finally:
        await driver.purge()
    assert kind.find_traces(state) == []


async def test_the_operator_opens_and_shuts(
    kind: Kind, tmp_path: Path, make_box: MakeBox, world: World
) -> None:
    options = {"egress_allow": ("10.213.0.0/16",), "egress_deny": (OTHER_PUBLIC,)}
    async with _started(kind, tmp_path, **options) as driver:
        box = await make_box(on=driver)
        assert await box.connect(PRIVATE, PORT) == "open"
        assert await box.connect(METADATA, PORT) in REFUSED
        assert await box.connect(PUBLIC, PORT) == "open"
        assert await box.connect(OTHER_PUBLIC, PORT) in REFUSED
        await driver.set_egress(box.instance, Egress(allow=(OTHER_PUBLIC,)))
        assert await box.connect(OTHER_PUBLIC, PORT) in REFUSED
        await driver.set_egress(box.instance, Egress(deny=(PRIVATE,)))
        assert await box.connect(PRIVATE, PORT) in REFUSED
        await box.agent.close()


async def test_sandboxes_of_two_servers_do_not_reach_each_other(
    kind: Kind, tmp_path: Path, box: Box, make_box: MakeBox
) -> None:
    async with _started(kind, tmp_path) as driver:
        other = await make_box(on=driver)
        async with other.background("python3 -m http.server 8000 --directory /etc"):
            while (await other.connect("127.0.0.1", 8000)) != "open":
                await asyncio.sleep(0.05)
            assert await box.connect(other.instance.address, 8000) != "open"
        assert other.instance.address != box.instance.address
        await other.agent.close()


@pytest.mark.parametrize("egress", [Egress(), Egress(allow=("0.0.0.0/0",))], ids=["own", "all"])
async def test_one_sandbox_cannot_use_up_the_hosts_table_of_connections(
    box: Box, world: World, egress: Egress
) -> None:
    await box.driver.set_egress(box.instance, egress)
    await box.python(
        f"""
        import socket
        for source in range(20):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for port in range(8000, 9000):
                try:
                    sock.sendto(b"x", ("{PUBLIC}", port))
                except OSError:
                    pass
        """
    )
    assert 4000 < _count_connections(box) < 12_000


async def test_nor_can_it_by_asking_for_names(box: Box) -> None:
    await box.python(
        """
        import socket, time
        server = open("/etc/resolv.conf").read().split()[1]
        for second in range(6):
            for source in range(1000):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    try:
                        sock.sendto(b"x", (server, 53))
                    except OSError:
                        pass
            time.sleep(1)
        """
    )
    assert 300 < _count_connections(box) < 1300


def _count_connections(box: Box) -> int:
    """How many connections the host keeps track of for this sandbox."""
    source = f"src={box.instance.address} "
    with Path("/proc/net/nf_conntrack").open() as table:
        return sum(source in line.partition("[UNREPLIED]")[0] for line in table)
