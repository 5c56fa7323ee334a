"""What sandboxes may reach, as one nftables table per server.

The table is written in one transaction, so there is no moment without rules, and it stays when the
server dies. The standing rules say all of a default policy: a sandbox with one needs no rule of its
own. The rules see a packet after any destination NAT: what a port that another program has
published on this host leads to is judged by where it really goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import zlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any, TypeVar

from atoll.errors import HostError, InvalidInput
from atoll.isolation.driver import Egress

T = TypeVar("T")

CLOSED_RANGES: Sequence[str] = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Shut unless the operator opens them: private, shared, link-local (with the clouds' metadata
address), benchmark, multicast and reserved ranges, and the one public address at which machines on
Azure find their host's metadata and secrets (WireServer). The documentation ranges are not among
them: networks of companies use them for real services."""

MAX_FLOWS = 8192
"""Connections that one sandbox may have open through the host at the same time. The host tracks
each, and its table has room for a limited number over all."""

MAX_DNS_FLOWS = 1024
"""The same for questions about names. One counts for half a minute after its last packet."""

_DNS_PACKETS = "200/second burst 400 packets"
"""What one sandbox may send to the host: every question costs the server's process some time."""

_EVERYTHING = IPv4Network("0.0.0.0/0")


class Firewall:
    """The table of one server."""

    def __init__(
        self,
        table: str,
        *,
        interfaces: str,
        block: IPv4Network,
        gateway: IPv4Address,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
    ) -> None:
        """`interfaces` is what the names of all sandboxes' host-side interfaces begin with.

        `allow` and `deny` are the operator's; `deny` wins, and both stand above the closed ranges
        and above every sandbox's own policy. Raises `InvalidInput` for a bad CIDR.
        """
        self.name = table
        self._table = f"inet {table}"
        self._inside = f'"{interfaces}*"'
        self._block = block
        self._gateway = gateway
        self._allow = networks(allow)
        self._deny = networks(deny)
        self._policies: dict[IPv4Address, Egress] = {}
        self._dns_port = 0  # until the table is installed
        self._lock = asyncio.Lock()

    async def install(self, policies: Mapping[IPv4Address, Egress], dns_port: int) -> None:
        """Write the whole table anew, with these sandboxes' own policies.

        `dns_port` is where, on the gateway address, names are resolved.
        """
        await _finish(self._install(policies, dns_port))

    async def _install(self, policies: Mapping[IPv4Address, Egress], dns_port: int) -> None:
        async with self._lock:
            await self._write(policies, dns_port)

    async def restore(self) -> bool:
        """Write the table again, unless it is there and is the last one written.

        Returns whether that was necessary. Raises `HostError` when the table is not there even
        then.
        """
        return await _finish(self._restore())

    async def _restore(self) -> bool:
        async with self._lock:
            if not self._dns_port or await self._is_written():
                return False
            await self._write(self._policies, self._dns_port)
            if not await self._is_written():
                raise HostError(f"the table {self._table} changes while it is written")
            return True

    async def _write(self, policies: Mapping[IPv4Address, Egress], dns_port: int) -> None:
        lines = self.standing_rules(dns_port)
        for address, egress in policies.items():
            lines += self._policy(address, egress)
        await _nft(lines + self._sign(policies, dns_port))
        self._policies, self._dns_port = dict(policies), dns_port

    def _sign(self, policies: Mapping[IPv4Address, Egress], dns_port: int) -> list[str]:
        """The lines that note in the table which table it is.

        Another one may come in its place: somebody loads what he saved at some time before.
        """
        signature = self._signature(policies, dns_port)
        table = self._table
        return [f"flush set {table} written", f"add element {table} written {{ {signature} }}"]

    def _signature(self, policies: Mapping[IPv4Address, Egress], dns_port: int) -> str:
        lines = self.standing_rules(dns_port)
        for address in sorted(policies):
            lines += self._policy(address, policies[address])
        return f"0x{zlib.crc32(chr(10).join(lines).encode()):08x}"

    async def _is_written(self) -> bool:
        arguments = ("-n", "list", "set", *self._table.split(), "written")
        failure, text = await _run_nft(arguments, "")
        # Two tables loaded one over the other have two signatures.
        return failure is None and re.findall(r"\b0x[0-9a-f]+\b", text) == [
            self._signature(self._policies, self._dns_port)
        ]

    def standing_rules(self, dns_port: int) -> list[str]:
        """The lines, for `nft -f`, that make the table anew without any sandbox's own policy."""
        return [
            f"table {self._table}",
            f"delete table {self._table}",
            f"table {self._table} {{",
            *self._sets(),
            *self._chains(dns_port),
            "}",
        ]

    async def set_policy(self, address: IPv4Address, egress: Egress) -> None:
        """Apply one sandbox's own policy in one transaction. Raises `InvalidInput`."""
        await _finish(self._set_policy(address, egress))

    async def _set_policy(self, address: IPv4Address, egress: Egress) -> None:
        async with self._lock:
            policies = {**self._policies, address: egress}
            await self._change(self._policy(address, egress), policies)

    async def clear_policy(self, address: IPv4Address) -> None:
        """Forget one sandbox's own policy, if it has one."""
        await _finish(self._clear_policy(address))

    async def _clear_policy(self, address: IPv4Address) -> None:
        table = self._table
        lines = self._policy(address, Egress(internet=False))
        lines.append(f"delete element {table} nameless {{ {address} }}")
        for direction in ("out", "in"):
            lines.append(f"delete element {table} policies_{direction} {{ {address} }}")
            lines.append(f"flush chain {table} {_chain(direction, address)}")
            lines.append(f"delete chain {table} {_chain(direction, address)}")
        async with self._lock:
            policies = {at: egress for at, egress in self._policies.items() if at != address}
            try:
                await self._change(lines, policies)
            except HostError:
                if self._dns_port or await _has_table(table):
                    raise  # else there is nothing to forget, as after a restart of the host

    async def _change(self, lines: list[str], policies: Mapping[IPv4Address, Egress]) -> None:
        if not self._dns_port:  # the table, if there is one, is that of a server before this one
            await _nft(lines)
            return
        try:
            await _nft(lines + self._sign(policies, self._dns_port))
        except HostError:  # somebody has deleted or changed the table: all of it, then
            await self._write(policies, self._dns_port)
        self._policies = dict(policies)

    async def remove(self) -> None:
        """Delete the table, if it is there."""
        await _finish(self._remove())

    async def _remove(self) -> None:
        async with self._lock:
            await _nft([f"table {self._table}", f"delete table {self._table}"])
            self._policies, self._dns_port = {}, 0

    def _sets(self) -> list[str]:
        return [
            _set("closed", networks(CLOSED_RANGES)),
            _set("operator_allow", self._allow),
            _set("operator_deny", self._deny),
            # Sandboxes that get no answers about names, and those with a policy of their own.
            "set nameless { type ipv4_addr; }",
            "set flows { type ipv4_addr; flags dynamic; size 65536; }",
            "set dns_flows { type ipv4_addr; flags dynamic; size 65536; }",
            "set dns_rates { type ipv4_addr; flags dynamic, timeout; size 65536; timeout 1m; }",
            # What this table was made of.
            "set written { type mark; }",
            "map policies_out { type ipv4_addr : verdict; }",
            "map policies_in { type ipv4_addr : verdict; }",
        ]

    def _chains(self, dns_port: int) -> list[str]:
        inside, gateway = self._inside, self._gateway
        return [
            "chain refuse {",
            "  meta l4proto tcp reject with tcp reset",
            "  reject with icmp type admin-prohibited",
            "}",
            # A packet of a sandbox has the sandbox's own address, or it is forged.
            "chain entry {",
            "  type filter hook prerouting priority raw; policy accept;",
            f"  iifname {inside} meta nfproto ipv6 drop",
            f"  iifname {inside} fib saddr . iif oif missing drop",
            "}",
            # To the host itself a sandbox may say one thing: what is the address of this name.
            "chain resolve {",
            "  type nat hook prerouting priority dstnat; policy accept;",
            *(
                f"  iifname {inside} ip daddr {gateway} {protocol} dport 53"
                f" dnat ip to {gateway}:{dns_port}"
                for protocol in ("udp", "tcp")
            ),
            "}",
            "chain to_host {",
            "  type filter hook input priority filter - 5; policy accept;",
            f"  iifname {inside} goto from_sandbox_to_host",
            f'  iifname != "lo" ip daddr {gateway} drop',
            "}",
            "chain from_sandbox_to_host {",
            "  ct state invalid drop",
            f"  update @dns_rates {{ ip saddr limit rate over {_DNS_PACKETS} }} drop",
            f"  ct state new add @dns_flows {{ ip saddr ct count over {MAX_DNS_FLOWS} }}"
            " goto refuse",
            "  ip saddr @nameless goto refuse",
            f"  ip daddr {gateway} udp dport {dns_port} accept",
            f"  ip daddr {gateway} tcp dport {dns_port} accept",
            "  goto refuse",
            "}",
            "chain from_host {",
            "  type filter hook output priority filter - 5; policy accept;",
            f"  oifname {inside} meta nfproto ipv6 drop",
            f"  oifname {inside} ct state != {{ established, related }} drop",
            "}",
            "chain through {",
            "  type filter hook forward priority filter - 5; policy accept;",
            f"  iifname {inside} jump from_sandbox",
            f"  oifname {inside} jump to_sandbox",
            "}",
            # First what no policy changes. Packets that belong to nothing are not masqueraded.
            "chain from_sandbox {",
            "  ct state invalid drop",
            f"  ct state new add @flows {{ ip saddr ct count over {MAX_FLOWS} }} goto refuse",
            f"  oifname {inside} goto refuse",
            "  ip daddr @operator_deny goto refuse",
            "  ip daddr != @operator_allow ip daddr @closed goto refuse",
            "  ip saddr vmap @policies_out",
            "}",
            "chain to_sandbox {",
            "  ct state != { established, related } drop",
            "  ip daddr vmap @policies_in",
            "}",
            "chain leave {",
            "  type nat hook postrouting priority srcnat; policy accept;",
            f"  ip saddr {self._block} oifname != {inside} masquerade",
            "}",
        ]

    def _policy(self, address: IPv4Address, egress: Egress) -> list[str]:
        """The lines that bring about one sandbox's policy, whatever it was before."""
        allow, deny = networks(egress.allow), networks(egress.deny)
        shut = not egress.internet or _EVERYTHING in deny
        table = self._table
        lines = [f"add element {table} nameless {{ {address} }}"]
        if not shut:  # adding comes first, as only what is there can be deleted
            lines.append(f"delete element {table} nameless {{ {address} }}")
        for direction, end, refusal in (("out", "daddr", "goto refuse"), ("in", "saddr", "drop")):
            chain = _chain(direction, address)
            lines += [
                f"add chain {table} {chain}",
                f"flush chain {table} {chain}",
                f"add element {table} policies_{direction} {{ {address} : jump {chain} }}",
            ]
            if allow:
                lines.append(f"add rule {table} {chain} ip {end} {_anonymous(allow)} accept")
            if shut:
                lines.append(f"add rule {table} {chain} {refusal}")
            elif deny:
                lines.append(f"add rule {table} {chain} ip {end} {_anonymous(deny)} {refusal}")
        return lines


def networks(texts: Iterable[str]) -> list[IPv4Network]:
    """Read addresses and CIDRs, merged. Raises `InvalidInput` naming the first bad one."""
    found = []
    for text in texts:
        try:
            found.append(IPv4Network(text, strict=False))
        except ValueError:
            raise InvalidInput(f"{text!r} is not an IPv4 address or network") from None
    return list(collapse_addresses(found))


def _chain(direction: str, address: IPv4Address) -> str:
    return f"{direction}_{int(address):08x}"


def _anonymous(members: Sequence[IPv4Network]) -> str:
    return "{ " + ", ".join(map(str, members)) + " }"


def _set(name: str, members: Sequence[IPv4Network]) -> str:
    elements = f" elements = {_anonymous(members)};" if members else ""
    return f"set {name} {{ type ipv4_addr; flags interval;{elements} }}"


async def _nft(lines: Sequence[str]) -> None:
    """Run one transaction: all of it or nothing."""
    failure, _ = await _run_nft(("-f", "-"), "\n".join(lines))
    if failure is not None:
        raise HostError(f"nft failed: {failure}")


async def _has_table(table: str) -> bool:
    failure, _ = await _run_nft(("list", "table", *table.split()), "")
    return failure is None


async def _run_nft(arguments: Sequence[str], text: str) -> tuple[str | None, str]:
    """Run nft; what it complained about, if it failed, and what it printed."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            *arguments,
            # Without a text there must be no pipe: the program may have ended before we close it.
            stdin=asyncio.subprocess.PIPE if text else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise HostError("nft is not installed", remedy="apt-get install nftables") from None
    printed, errors = await process.communicate(text.encode() if text else None)
    failure = errors.decode(errors="replace").strip() if process.returncode else None
    return failure, printed.decode(errors="replace")


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Do some work to its end, though the task that waits for it be cancelled meanwhile.

    Else nobody would know whether nft was still to do what it had been told.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await asyncio.shield(task)
        raise
