"""What a machine may lack, found out by trying."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from atoll.errors import HostError
from atoll.isolation import namespaces
from atoll.isolation.builder import PROGRAMS
from atoll.isolation.cgroups import ControlGroups, find_hierarchies
from atoll.isolation.dns import RESOLV_CONF, Resolvers, is_answering
from atoll.isolation.firewall import Firewall
from atoll.isolation.inotify import low_limits
from atoll.isolation.netlink import Netlink
from atoll.isolation.seccomp import profile

_RUNC_VERSION = (1, 1)
_FREE_BYTES = 5 << 30
_BLOCK = IPv4Network("100.64.0.0/20")
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that has to be put right before sandboxes can run."""

    name: str
    detail: str
    fix: str


async def check_host(directory: Path = Path("/var/lib")) -> list[Problem]:
    """Look for everything that sandboxes need; an empty list means that nothing is missing.

    `directory` is where the disks of sandboxes are to lie. Leaves the machine as it is.
    """
    if os.geteuid() != 0:
        detail = "sandboxes are made by root of the host"
        return [Problem("root", detail, "run the command with sudo, or as root")]
    return await asyncio.to_thread(_check_machine, directory) + await _check_resolvers()


def _check_machine(directory: Path) -> list[Problem]:
    return [
        *_check_programs(),
        *_check_kernel(),
        *_check_control_groups(),
        *_check_network(),
        *_check_forwarding(),
        *_check_space(directory),
    ]


def _check_programs() -> Iterator[Problem]:
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            yield Problem(program, f"{program} is not installed", f"apt-get install {package}")
    if shutil.which("runc"):
        version = re.search(r"runc version (\d+)\.(\d+)", _output("runc", "--version"))
        if version is None or tuple(map(int, version.groups())) < _RUNC_VERSION:
            yield Problem("runc", "runc is older than 1.1", "install runc 1.1 or newer")


def _check_kernel() -> Iterator[Problem]:
    for kind in ("overlay", "ext4"):
        if not _has_file_system(kind):
            yield Problem(kind, f"the kernel has no {kind}", f"load the module: modprobe {kind}")
    if not Path("/dev/loop-control").exists():
        yield Problem("loop", "there are no loop devices", "load the module: modprobe loop")
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not Path("/proc/self/ns/user").exists():
        yield Problem("user namespaces", "the kernel has none", "use one with CONFIG_USER_NS")
    elif limit.exists() and int(limit.read_text()) == 0:
        fix = "sysctl -w user.max_user_namespaces=65536"
        yield Problem("user namespaces", "they are turned off", fix)
    for file, wanted in low_limits().items():
        if not os.access(file, os.W_OK):
            detail = f"{file} is below {wanted} and cannot be raised from here"
            fix = f"on the host: sysctl -w fs.inotify.{file.name}={wanted}"
            yield Problem("inotify", detail, fix)
    if "Seccomp_filters:" not in Path("/proc/self/status").read_text():
        detail = "the kernel cannot filter system calls"
        yield Problem("seccomp", detail, "use a kernel with CONFIG_SECCOMP_FILTER, 5.9 or newer")
    try:
        profile()
    except HostError as error:
        yield Problem("seccomp", error.message, error.remedy or "")


def _has_file_system(kind: str) -> bool:
    known = Path("/proc/filesystems")
    if kind not in known.read_text().split() and shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], check=False)
    return kind in known.read_text().split()


def _check_control_groups() -> Iterator[Problem]:
    name = f"atoll-check-{secrets.token_hex(4)}"
    groups = ControlGroups(name, find_hierarchies())
    if groups.missing:
        detail = f"the kernel offers none for {', '.join(groups.missing)}"
        fix = "boot with cgroup_enable=memory, or mount the controllers"
        yield Problem("control groups", detail, fix)
    for hierarchy in groups.hierarchies:
        try:
            (hierarchy.mount / name).mkdir()
        except OSError as error:
            detail = f"{hierarchy.mount} cannot be written: {error.strerror}"
            fix = "mount it read-write; in a container, run it privileged"
            yield Problem("control groups", detail, fix)
    groups.remove_parent()


def _check_network() -> Iterator[Problem]:
    """Set up links and the real rules in a network namespace that is thrown away."""
    found: list[Problem] = []

    def probe() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNET)
        except OSError as error:
            fix = "use a kernel with CONFIG_NET_NS; in a container, run it privileged"
            found.append(Problem("network namespaces", f"cannot make one: {error}", fix))
            return
        found.extend(_probe_links())
        found.extend(_probe_rules())

    # A thread of its own, as the namespace stays with the thread.
    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()
    yield from found


def _probe_links() -> Iterator[Problem]:
    with Netlink() as link:
        try:
            link.create_bridge("check")
        except OSError as error:
            yield Problem("bridge", f"cannot make one: {error}", "modprobe bridge")
        netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            link.create_veth(
                "near",
                bytes.fromhex("020000000001"),
                peer="far",
                peer_mac=bytes.fromhex("020000000002"),
                peer_netns=netns,
                mtu=1500,
            )
        except OSError as error:
            yield Problem("veth", f"cannot make a pair: {error}", "modprobe veth")
        finally:
            os.close(netns)


def _probe_rules() -> Iterator[Problem]:
    rules = Firewall("check", interfaces="check", block=_BLOCK, gateway=_BLOCK[1]).standing_rules(1)
    if shutil.which("nft"):
        done = subprocess.run(
            ["nft", "-f", "-"],
            input="\n".join(rules),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            fix = "use a kernel with nf_tables (inet, nat, fib, reject), or load these modules"
            yield Problem("nf_tables", done.stderr.strip(), fix)


def _check_forwarding() -> Iterator[Problem]:
    if _FORWARD.read_text().strip() != "1" and not os.access(_FORWARD, os.W_OK):
        detail = "it is off and cannot be turned on from here"
        yield Problem("IPv4 forwarding", detail, "on the host: sysctl -w net.ipv4.ip_forward=1")
    for place, rules in _forward_rules():
        # Another firewall that drops what it does not know drops our packets too, whatever our own
        # rules say, unless it has been told of our interfaces.
        if "atl*" not in rules and "atl+" not in rules:
            yield Problem(
                "forwarding policy",
                f"{place} drops what it does not know, sandboxes' packets included",
                "iptables -I FORWARD -i atl+ -j ACCEPT; iptables -I FORWARD -o atl+ -j ACCEPT"
                " (with Docker: into the chain DOCKER-USER); Atoll's own rules still hold",
            )


def _forward_rules() -> Iterator[tuple[str, str]]:
    """The rules of every other firewall whose policy is to drop what it forwards."""
    if shutil.which("nft"):
        for table in _output("nft", "list", "ruleset").split("\ntable "):
            name = table.removeprefix("table ").split(" {")[0]
            drops = re.search(r"hook forward priority [^;]*; policy drop;", table)
            if drops and not name.startswith("inet atoll_"):
                yield f"the nftables table {name!r}", table
    if shutil.which("iptables-legacy"):
        rules = _output("iptables-legacy", "-S")
        if "-P FORWARD DROP" in rules:
            yield "iptables", rules


def _check_space(directory: Path) -> Iterator[Problem]:
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free < _FREE_BYTES:
        detail = f"{directory} has {free >> 20} MiB free, less than {_FREE_BYTES >> 20}"
        yield Problem("disk space", detail, "free some, or use another data directory")


async def _check_resolvers() -> list[Problem]:
    resolvers = Resolvers().current()
    if not resolvers:
        fix = "name one there, or set ATOLL_DNS"
        return [Problem("resolvers", f"{RESOLV_CONF} names none", fix)]
    for resolver in resolvers:
        if await is_answering(resolver):
            return []
    detail = f"none answers: {', '.join(resolvers)}"
    return [Problem("resolvers", detail, f"correct {RESOLV_CONF}, or set ATOLL_DNS")]


def _output(*command: str) -> str:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return ""
