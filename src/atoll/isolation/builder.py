"""Putting a sandbox together from its parts, and taking it apart again."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path

from atoll.agent.runtime import agent_command
from atoll.errors import HostError, Overloaded
from atoll.isolation.bundle import write_bundle
from atoll.isolation.cgroups import ControlGroups
from atoll.isolation.disk import Disks, LoopDevice
from atoll.isolation.driver import SandboxSpec
from atoll.isolation.handle import Grip
from atoll.isolation.mountpoints import resolve_mount_points
from atoll.isolation.mounts import Stage
from atoll.isolation.network import Network
from atoll.isolation.records import Record, Records, start_time
from atoll.isolation.runc import Runc
from atoll.isolation.volumes import Volumes

PROGRAMS = {"runc": "runc", "nft": "nftables", "mkfs.ext4": "e2fsprogs", "prlimit": "util-linux"}
"""What has to be installed, with the name of the package that brings it."""

_RELEASE_SECONDS = 10.0
_POLL_SECONDS = 0.001
_DISK = "disk.img"


class Builder:
    """Does the parts of a driver's work that block, one sandbox at a time per thread."""

    def __init__(
        self,
        *,
        instance: str,
        records: Records,
        disks: Disks,
        volumes: Volumes,
        cgroups: ControlGroups,
        runc: Runc,
        network: Network,
    ) -> None:
        self._instance = instance
        self._records = records
        self._disks = disks
        self._volumes = volumes
        self._cgroups = cgroups
        self._runc = runc
        self._network = network

    def check_host(self) -> None:
        """Raises `HostError` that names what the machine lacks and the remedy."""
        if os.geteuid() != 0:
            raise HostError("Atoll has to run as root", remedy="start it as root")
        for program, package in PROGRAMS.items():
            if shutil.which(program) is None:
                raise HostError(f"{program} is not installed", remedy=f"apt-get install {package}")
        if self._cgroups.missing:
            raise HostError(
                f"the kernel offers no control groups for {', '.join(self._cgroups.missing)}",
                remedy="mount them, or boot with these controllers on",
            )

    def build(self, spec: SandboxSpec, record: Record, runtime: Path) -> Grip:
        """Make a sandbox and fill in its record. To be called on a thread of a mount namespace.

        Raises `HostError` or `Overloaded`, and for its volumes `NotFound` or `InvalidInput`; what
        was made by then is for `remove`.
        """
        try:
            self._records.write(record)
            self._start(spec, record, runtime)
            grip = Grip(record)
        except OSError as error:
            kind = Overloaded if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostError
            raise kind(f"cannot make a sandbox: {error}") from error
        try:
            self._network.attach(IPv4Address(record.address), grip.netns)
        except BaseException as error:
            grip.close()
            if isinstance(error, OSError):
                raise HostError(f"cannot connect a sandbox: {error}") from error
            raise
        return grip

    def _start(self, spec: SandboxSpec, record: Record, runtime: Path) -> None:
        directory = self._records.directory(spec.sandbox_id)
        disk = directory / _DISK
        self._disks.create(disk, spec.resources.disk_mb)
        with Stage(f"{self._instance}-{spec.sandbox_id}") as stage:
            with LoopDevice(disk) as device:
                record.loop = Path(device.name).name
                self._records.write(record)  # `remove` waits for the device that it finds there
                mounted = stage.mount_disk(device.name)
            root = stage.mount_root(spec.layers, mounted)
            targets = resolve_mount_points(root, [each.path for each in spec.volumes])
            sources = [
                stage.mount_beside(functools.partial(self._volumes.mount, each.volume_id))
                for each in spec.volumes
            ]
            write_bundle(
                directory,
                spec,
                command=agent_command(),
                root=root,
                runtime=runtime,
                volumes=dict(zip(targets, sources, strict=True)),
                cgroup=self._cgroups.path(spec.sandbox_id),
                swap_limits=self._cgroups.counts_swap,
            )
            record.pid = self._runc.run(spec.sandbox_id, directory)
            record.started = start_time(record.pid)
            self._records.write(record)
            self._cgroups.limit_tcp(spec.sandbox_id, spec.resources.memory_mb << 20)

    def save_layer(self, record: Record, directory: Path) -> None:
        """Copy what a running sandbox has changed. To be called on a thread of a mount namespace.

        Raises `HostError`; a directory that was begun is for the caller to remove.
        """
        device = f"/dev/{record.loop}"
        with Stage(f"{self._instance}-{record.sandbox_id}-save") as stage:
            if not self._backs(record):
                raise HostError(f"the disk of the sandbox {record.sandbox_id} is not there")
            changed = stage.mount_disk(device) / "u"
            # Attributes included: in them the overlay keeps what was renamed or replaced.
            done = subprocess.run(
                ["cp", "--archive", "--reflink=auto", str(changed), str(directory)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise HostError(f"cannot save a layer: {done.stderr.strip()[-500:]}")

    def remove(self, sandbox_id: str) -> None:
        """Take a sandbox apart, whatever there is of it. Blocks.

        Raises `HostError` or OSError; what is left then is for another call.
        """
        record = self._records.read(sandbox_id)
        self._cgroups.remove(sandbox_id)
        if record is not None:
            self._network.detach(IPv4Address(record.address))
            self._wait_for_device(record)
        self._runc.forget(sandbox_id)
        self._records.remove(sandbox_id)

    def _wait_for_device(self, record: Record) -> None:
        """Wait until the kernel has let go of the disk: first it writes out what it still holds."""
        deadline = time.monotonic() + _RELEASE_SECONDS
        while record.loop and time.monotonic() < deadline and self._backs(record):
            time.sleep(_POLL_SECONDS)

    def _backs(self, record: Record) -> bool:
        """Whether the loop device in the record is still the one of the sandbox's disk."""
        disk = str(self._records.directory(record.sandbox_id).resolve() / _DISK)
        try:
            backing = Path("/sys/block", record.loop, "loop/backing_file").read_text()
        except OSError:
            return False
        return backing.strip() == disk
