"""What a sandbox reaches, and what it must not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox

from tests.server import RunningServer


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A service on every address of this machine; yields its port."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            server.settimeout(0.2)
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.sendall(b"reached\n")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


def reaches(sandbox: Sandbox, host: str, port: int) -> bool:
    """Whether a TCP connection from inside comes about."""
    try:
        sandbox.commands.run(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}'")
    except CommandExitException:
        return False
    return True


def host_addresses() -> list[str]:
    """Every IPv4 address of this machine that is not loopback."""
    import fcntl
    import struct

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe, 0x8915, request)  # SIOCGIFADDR
            except OSError:
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


def test_packages_install(sandbox: Sandbox) -> None:
    """The way out, names included, works as far as the registries that this machine reaches."""
    result = sandbox.commands.run("pip install --break-system-packages six 2>&1", timeout=90)
    assert "Successfully installed six" in result.stdout or "already satisfied" in result.stdout
    result = sandbox.commands.run("npm install is-number 2>&1", timeout=90)
    assert "added 1 package" in result.stdout


def test_apt_works(sandbox: Sandbox) -> None:
    command = "sudo apt-get update -q && sudo apt-get install -qy --no-install-recommends tree"
    sandbox.commands.run(f"{command} 2>&1", timeout=110)
    assert "tree v" in sandbox.commands.run("tree --version").stdout


def test_the_hosts_services_are_out_of_reach(
    server: RunningServer, sandbox: Sandbox, listener: int
) -> None:
    gateway = sandbox.commands.run("ip route show default").stdout.split()[2]
    addresses = {*host_addresses(), gateway}
    assert addresses
    for address in addresses:
        with socket.create_connection((address, listener), timeout=5) as connection:
            assert connection.recv(7) == b"reached"  # from the host it is there
        for port in (listener, server.port, 22):
            assert not reaches(sandbox, address, port)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1"]
)
def test_private_ranges_are_out_of_reach(sandbox: Sandbox, address: str) -> None:
    assert not reaches(sandbox, address, 80)


def test_the_resolver_itself_is_out_of_reach(sandbox: Sandbox) -> None:
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        if line.startswith("nameserver") and not line.split()[1].startswith("127."):
            assert not reaches(sandbox, line.split()[1], 53)
            assert line.split()[1] not in sandbox.files.read("/etc/resolv.conf")


def test_sandboxes_do_not_reach_each_other(server: RunningServer, sandbox: Sandbox) -> None:
    with Sandbox.create(**server.options) as other:
        other.commands.run("python3 -m http.server 8000", background=True)
        other.commands.run("until ss -Hltn 'sport = :8000' | grep -q .; do sleep 0.1; done")
        address = other.commands.run("hostname -I").stdout.split()[0]
        assert reaches(other, address, 8000)
        assert not reaches(sandbox, address, 8000)


def test_without_internet_nothing_goes_out(server: RunningServer) -> None:
    with Sandbox.create(allow_internet_access=False, **server.options) as sandbox:
        assert sandbox.get_info().allow_internet_access is False
        with pytest.raises(CommandExitException):
            sandbox.commands.run("pip download --no-deps --timeout 3 --retries 0 six", timeout=60)
        resolve = "import socket; socket.setdefaulttimeout(3); socket.gethostbyname('example.com')"
        with pytest.raises(CommandExitException):
            sandbox.commands.run(f'timeout 10 python3 -c "{resolve}"', timeout=20)
        gateway = sandbox.commands.run("ip route show default").stdout.split()[2]
        assert not reaches(sandbox, gateway, 53)
        # What comes in from the server still does.
        sandbox.files.write("file", "x")


def test_the_policy_can_change_while_it_runs(sandbox: Sandbox) -> None:
    install = "pip download -q --no-deps --timeout 3 --retries 0 six"
    sandbox.commands.run(install, timeout=60)
    sandbox.update_network({"allow_internet_access": False})
    with pytest.raises(CommandExitException):
        sandbox.commands.run(f"rm -f six*; {install}", timeout=60)
    sandbox.update_network({"allow_internet_access": True})
    sandbox.commands.run(install, timeout=60)


def test_ping_and_loopback(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("ip -o addr show lo").stdout
    for family in ("127.0.0.1", "::1"):
        program = (
            f"import socket; s = socket.create_server(('{family}', 0), "
            f"family=socket.AF_INET6 if ':' in '{family}' else socket.AF_INET); "
            f"socket.create_connection(s.getsockname()[:2]); print('ok')"
        )
        assert sandbox.commands.run(f'python3 -c "{program}"').stdout == "ok\n"
