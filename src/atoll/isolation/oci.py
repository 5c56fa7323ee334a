"""Sandboxes as OCI containers on this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from atoll.agent.client import AgentClient
from atoll.errors import Conflict, HostError, InvalidInput, PortClosed, SandboxGone
from atoll.isolation.builder import Builder
from atoll.isolation.bundle import ID_BASE, ID_COUNT
from atoll.isolation.cgroups import ControlGroups, find_hierarchies
from atoll.isolation.disk import Disks
from atoll.isolation.driver import Driver, Egress, Instance, SandboxSpec, Usage, VolumeRoot
from atoll.isolation.firewall import networks
from atoll.isolation.handle import Grip, Handle
from atoll.isolation.inotify import raise_limits
from atoll.isolation.instance import instance_name
from atoll.isolation.lock import StateLock
from atoll.isolation.mounts import MountNamespace
from atoll.isolation.network import Network
from atoll.isolation.records import Record, Records, boot_id, is_id
from atoll.isolation.runc import Runc
from atoll.isolation.volumes import Volumes
from atoll.threads import finish

_AGENT_SOCKET = b"\0atoll-agent"
_BOOT_SECONDS = 60.0
_REMOVALS = 8
_SETTLE_SECONDS = 10.0

T = TypeVar("T")


class OciDriver(Driver):
    """Runs each sandbox with runc, on a disk of its own over the template's layers.

    It keeps its files in `sandboxes`, `volumes`, `runc`, `blank` and `network` of the state
    directory, which is also its identity: two drivers over different ones never meet, though they
    run on one host at the same time; two over the same one exclude each other.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        runtime_dir: Path,
        network: str | None = None,
        dns: Sequence[str] = (),
        egress_allow: Sequence[str] = (),
        egress_deny: Sequence[str] = (),
        max_concurrent_creates: int = 4,
    ) -> None:
        """`runtime_dir` is what `atoll.agent.runtime.build_runtime` returned.

        `network` fixes the IPv4 block of the sandboxes, `dns` the resolvers they are answered by
        (else those of the host). `egress_allow` opens ranges that are shut by default,
        `egress_deny` shuts others, for all sandboxes. Raises `ConfigurationError` or `InvalidInput`
        for a bad value.
        """
        self._state = state_dir.absolute()
        self._runtime_dir = runtime_dir.absolute()
        instance = instance_name(self._state)
        self._records = Records(self._state / "sandboxes")
        self._disks = Disks(self._state / "blank")
        self._volumes = Volumes(self._state / "volumes")
        self._cgroups = ControlGroups(f"atoll-{instance}", find_hierarchies())
        self._runc = Runc(self._state / "runc")
        self._network = Network(
            instance,
            self._state / "network",
            block=network,
            dns=tuple(dns),
            allow=tuple(egress_allow),
            deny=tuple(egress_deny),
        )
        self._builder = Builder(
            instance=instance,
            records=self._records,
            disks=self._disks,
            volumes=self._volumes,
            cgroups=self._cgroups,
            runc=self._runc,
            network=self._network,
        )
        self._creates = max_concurrent_creates
        self._slots = asyncio.Semaphore(max_concurrent_creates)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._handles: dict[str, Handle] = {}
        self._oom_kills: dict[str, int] = {}
        self._mounts: MountNamespace | None = None
        # Threads of its own, as a removal may wait for seconds until a disk is written out.
        self._removals = _removal_threads()
        self._state_lock = StateLock(self._state)

    async def start(self) -> None:
        """See `Driver.start`."""
        if self._mounts is not None:
            return
        self._builder.check_host()
        self._state_lock.take()
        try:
            raise_limits()
            self._runc.kill_strays()
            self._volumes.discard_drafts()
            known = [each for each in map(self._records.read, self._records.names()) if each]
            await self._network.start(
                {
                    IPv4Address(each.address): each.egress
                    for each in known
                    if each.boot == boot_id()
                },
                # Those of an earlier boot are dead, but removing one releases its address.
                reserved=[IPv4Address(each.address) for each in known],
            )
            self._mounts = MountNamespace(self._creates, self._runtime_dir)
            await self._mounts.open()
        except BaseException:
            await self.stop()
            raise

    async def create(self, spec: SandboxSpec) -> Instance:
        """See `Driver.create`. Raises also `Conflict` for an id in use, `InvalidInput`."""
        if not is_id(spec.sandbox_id):
            raise InvalidInput(f"{spec.sandbox_id!r} cannot be the id of a sandbox")
        if not spec.layers:
            raise InvalidInput("a sandbox needs at least one layer")
        async with (
            self._held({each.volume_id for each in spec.volumes}),
            self._slots,
            self._lock(spec.sandbox_id),
        ):
            if self._has(spec.sandbox_id):
                raise Conflict(f"there is a sandbox {spec.sandbox_id!r} already")
            address = self._network.addresses.take()
            record = Record(spec.sandbox_id, str(address), boot_id())
            try:
                return await self._boot(spec, record)
            except BaseException:
                await finish(self._remove(spec.sandbox_id, record))
                raise

    @contextlib.asynccontextmanager
    async def _held(self, volume_ids: Collection[str]) -> AsyncIterator[None]:
        """Have volumes mounted already, so that no boot waits until the kernel is ready to."""
        roots = contextlib.ExitStack()
        try:
            for volume_id in volume_ids:
                roots.callback(os.close, (await self.open_volume(volume_id)).descriptor)
            yield
        finally:
            if volume_ids:
                await self._running_mounts().run_apart(roots.close)

    async def _boot(self, spec: SandboxSpec, record: Record) -> Instance:
        mounts = self._running_mounts()
        grips: list[Grip] = []
        try:
            await mounts.run(
                lambda: grips.append(self._builder.build(spec, record, mounts.runtime))
            )
        finally:
            # Even when this task was cancelled the work was done to the end: its result is known.
            for grip in grips:
                self._handles[record.sandbox_id] = Handle(record, grip, self._why_ended)
        instance = self._handles[record.sandbox_id].instance
        client = AgentClient(lambda: self.dial_agent(instance))
        try:
            await client.hello(timeout=_BOOT_SECONDS)
            await client.configure(self._system_files(spec) | dict(spec.files))
        except SandboxGone:
            reason = await instance.exited
            raise HostError(f"the sandbox ended while it started: {reason}") from None
        finally:
            await client.close()
        record.ready = True
        self._records.write(record)
        return instance

    async def adopt(self, sandbox_id: str) -> Instance | None:
        """See `Driver.adopt`."""
        async with self._lock(sandbox_id):
            if sandbox_id in self._handles:
                instance = self._handles[sandbox_id].instance
                return None if instance.exited.done() else instance
            record = self._records.read(sandbox_id)
            if record is None or not record.ready or record.sandbox_id != sandbox_id:
                return None
            try:
                grip = Grip(record)
            except OSError:
                return None
            if not self._cgroups.holds(sandbox_id, record.pid):
                grip.close()
                return None
            handle = Handle(record, grip, self._why_ended)
            self._handles[sandbox_id] = handle
            return handle.instance

    async def destroy(self, sandbox_id: str) -> None:
        """See `Driver.destroy`."""
        if not is_id(sandbox_id):
            return
        async with self._lock(sandbox_id):
            await finish(self._remove(sandbox_id, self._records.read(sandbox_id)))

    async def _remove(self, sandbox_id: str, record: Record | None) -> None:
        # First of all and on this very thread: to end a sandbox never waits for other removals.
        self._kill(sandbox_id, record)
        self._oom_kills.pop(sandbox_id, None)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._removals, self._builder.remove, sandbox_id)
        except OSError as error:
            raise HostError(f"cannot remove the sandbox {sandbox_id}: {error}") from error
        if record is not None:
            address = IPv4Address(record.address)
            if not record.egress.is_default:
                await self._network.firewall.clear_policy(address)
            self._network.addresses.release(address)

    def _kill(self, sandbox_id: str, record: Record | None) -> None:
        """Kill the first process, upon which the kernel kills all others. Does not wait."""
        handle = self._handles.pop(sandbox_id, None)
        if handle is not None:
            handle.kill()
            handle.release("destroyed")
        elif record is not None and record.pid:
            with contextlib.suppress(OSError):
                grip = Grip(record)
                grip.kill()
                grip.close()
        self._cgroups.kill_at_once(sandbox_id)

    def _has(self, sandbox_id: str) -> bool:
        """Whether anything of a sandbox is on this host."""
        return any(part.has(sandbox_id) for part in (self._records, self._runc, self._cgroups))

    async def list(self) -> Collection[str]:
        """See `Driver.list`."""
        names = self._records.names() | self._runc.names() | self._cgroups.names()
        return {name for name in names if is_id(name)}

    async def dial_agent(self, instance: Instance) -> socket.socket:
        """See `Driver.dial_agent`. Raises OSError while the agent does not listen."""
        netns = self._handle(instance).netns
        return await self._reach(
            instance, lambda: self._network.sockets.connect(netns, socket.AF_UNIX, _AGENT_SOCKET)
        )

    async def dial(self, instance: Instance, port: int) -> socket.socket:
        """See `Driver.dial`. Raises `InvalidInput` for what is no port."""
        if not 0 < port < 65536:
            raise InvalidInput(f"{port} is no port")
        netns = self._handle(instance).netns
        sock = await self._reach(
            instance, lambda: self._network.sockets.dial(netns, instance.address, port)
        )
        if sock is None:
            raise PortClosed(port)
        return sock

    async def _reach(self, instance: Instance, connect: Callable[[], Awaitable[T]]) -> T:
        """Try to connect; what fails because the sandbox has ended says so."""
        try:
            found = await connect()
        except OSError:
            _ = self._handle(instance).netns
            raise
        if found is None:
            _ = self._handle(instance).netns
        return found

    async def set_egress(self, instance: Instance, egress: Egress) -> None:
        """See `Driver.set_egress`."""
        networks((*egress.allow, *egress.deny))
        async with self._lock(instance.sandbox_id):
            record = self._handle(instance).record
            before = record.egress
            if egress == before:
                return
            # On paper first: should the server die in between, the next one applies it.
            record.egress = egress
            self._records.write(record)
            address = IPv4Address(record.address)
            try:
                if egress.is_default:
                    await self._network.firewall.clear_policy(address)
                else:
                    await self._network.firewall.set_policy(address, egress)
            except HostError:
                record.egress = before
                self._records.write(record)
                raise

    async def save_layer(self, instance: Instance, directory: Path) -> None:
        """See `Driver.save_layer`."""
        record = self._handle(instance).record
        async with self._lock(instance.sandbox_id):
            await self._running_mounts().run(lambda: self._builder.save_layer(record, directory))

    async def usage(self, instance: Instance) -> Usage:
        """See `Driver.usage`."""
        handle = self._handle(instance)
        usage = self._cgroups.usage(instance.sandbox_id)
        used, total = handle.measure_root()
        usage = replace(usage, disk_used_bytes=used, disk_total_bytes=total)
        kills = self._cgroups.out_of_memory_kills(instance.sandbox_id)
        self._oom_kills[instance.sandbox_id] = kills
        return usage

    async def create_volume(self, volume_id: str, size_mb: int) -> None:
        """See `Driver.create_volume`. Raises also `Overloaded`, `InvalidInput`."""
        await self._running_mounts().run_apart(lambda: self._volumes.create(volume_id, size_mb))

    async def open_volume(self, volume_id: str) -> VolumeRoot:
        """See `Driver.open_volume`."""
        opened: list[int] = []
        try:
            await self._running_mounts().run_apart(
                lambda: opened.append(self._volumes.open(volume_id))
            )
        except BaseException:
            for descriptor in opened:
                self._removals.submit(os.close, descriptor)
            raise
        return VolumeRoot(opened[0], ID_BASE, ID_COUNT)

    async def remove_volume(self, volume_id: str) -> None:
        """See `Driver.remove_volume`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._removals, self._volumes.remove, volume_id)

    async def stop(self) -> None:
        """See `Driver.stop`."""
        for handle in self._handles.values():
            handle.release()
        self._handles.clear()
        await self._network.stop()
        if self._mounts is not None:
            await asyncio.to_thread(self._mounts.close)
            self._mounts = None
        # Another in its place, which has no threads before it has work: `destroy` needs no start.
        removals, self._removals = self._removals, _removal_threads()
        await asyncio.to_thread(removals.shutdown)
        self._state_lock.release()

    async def purge(self) -> None:
        """See `Driver.purge`. Works on a driver that was not started, too."""
        self._state_lock.take()
        try:
            self._runc.kill_strays()
            ends = await asyncio.gather(
                *(self.destroy(each) for each in await self.list()), return_exceptions=True
            )
            failures = [end for end in ends if isinstance(end, BaseException)]
            try:
                await self._network.remove()
            except (HostError, OSError) as error:
                failures.append(error)
            self._cgroups.remove_parent()
            if failures:
                # The records stay: by them the next attempt finds what is left.
                raise failures[0]
            await asyncio.to_thread(self._volumes.settle, _SETTLE_SECONDS)
            for directory in ("blank", "runc", "sandboxes"):
                shutil.rmtree(self._state / directory, ignore_errors=True)
        finally:
            await self.stop()

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    def _running_mounts(self) -> MountNamespace:
        if self._mounts is None:
            raise HostError("the driver is not started")
        return self._mounts

    def _handle(self, instance: Instance) -> Handle:
        handle = self._handles.get(instance.sandbox_id)
        if handle is None or handle.instance is not instance:
            raise SandboxGone(f"sandbox {instance.sandbox_id} has ended")
        return handle

    def _why_ended(self, sandbox_id: str) -> str:
        before = self._oom_kills.pop(sandbox_id, 0)
        return "oom" if self._cgroups.out_of_memory_kills(sandbox_id) > before else "exited"

    def _system_files(self, spec: SandboxSpec) -> dict[str, str]:
        return {
            "/etc/resolv.conf": f"nameserver {self._network.addresses.gateway}\n",
            "/etc/hostname": f"{spec.hostname}\n",
            "/etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{spec.hostname}\n",
        }


def _removal_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REMOVALS, "atoll-remove")
