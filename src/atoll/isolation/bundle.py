"""What the OCI runtime is told about a sandbox: the whole of its boundary in one place."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.isolation.driver import SandboxSpec
from atoll.isolation.seccomp import profile

ID_BASE = 1_000_000
"""The host's user and group id of the sandboxes' root."""
ID_COUNT = 65536

_MIB = 1 << 20
_CPU_PERIOD = 100_000
_MAX_OPEN_FILES = 1 << 16
# The kernel keeps these two accounts per user, and adds what a sandbox uses to that of the user who
# made its user namespace: root of the host. They are few, so that no sandbox has many of root's.
_MAX_PENDING_SIGNALS = 1024
"""Timers (`timer_create`) and queued signals of each user of the sandbox."""
_MAX_MESSAGE_QUEUES = 96 << 10
"""Bytes of POSIX message queues of each user: one of the default size takes 81 KiB."""

_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
]

# /sys shows every block device of the host: names, sizes, and for a loop device the path of its
# file, which is another sandbox's disk.
_MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/ext4",
    "/sys/kernel",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def write_bundle(
    directory: Path,
    spec: SandboxSpec,
    *,
    command: Sequence[str],
    root: Path,
    runtime: Path,
    volumes: Mapping[str, Path],
    cgroup: str,
    swap_limits: bool,
) -> None:
    """Write the `config.json` of a sandbox.

    `root` is its mounted root file system, `runtime` the agent's directory, `volumes` are mounted
    directories by their path inside, `cgroup` is its path below the root of each hierarchy.
    `swap_limits` says whether the kernel counts swap.
    """
    config = {
        "ociVersion": "1.0.2",
        "process": _process(command),
        "root": {"path": str(root), "readonly": False},
        "hostname": spec.hostname,
        "mounts": _mounts(spec, runtime, volumes),
        "linux": {
            "namespaces": [
                {"type": kind}
                for kind in ("pid", "mount", "ipc", "uts", "cgroup", "user", "network")
            ],
            "uidMappings": [{"containerID": 0, "hostID": ID_BASE, "size": ID_COUNT}],
            "gidMappings": [{"containerID": 0, "hostID": ID_BASE, "size": ID_COUNT}],
            "cgroupsPath": cgroup,
            "resources": _resources(spec, swap_limits),
            "sysctl": _sysctls(),
            "seccomp": profile(),
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }
    (directory / "config.json").write_text(json.dumps(config))


def _process(command: Sequence[str]) -> dict[str, Any]:
    # More than the host's own hard limit needs CAP_SYS_RESOURCE, which a server may not have.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(hard, _MAX_OPEN_FILES) if hard > 0 else _MAX_OPEN_FILES
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": list(command),
        "env": _ENVIRONMENT,
        "cwd": "/",
        "capabilities": {
            "bounding": _CAPABILITIES,
            "effective": _CAPABILITIES,
            "permitted": _CAPABILITIES,
        },
        "rlimits": [
            _limit("NOFILE", files),
            _limit("CORE", 0),
            _limit("SIGPENDING", _MAX_PENDING_SIGNALS),
            _limit("MSGQUEUE", _MAX_MESSAGE_QUEUES),
        ],
        # sudo has to work; what it can gain is root of the sandbox's own user namespace.
        "noNewPrivileges": False,
    }


def _limit(name: str, value: int) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name}", "soft": value, "hard": value}


def _resources(spec: SandboxSpec, swap_limits: bool) -> dict[str, Any]:
    memory = {"limit": spec.resources.memory_mb * _MIB}
    if swap_limits:
        memory["swap"] = memory["limit"]  # memory and swap together: no swap
    return {
        "memory": memory,
        "pids": {"limit": spec.resources.max_processes},
        "cpu": {"period": _CPU_PERIOD, "quota": spec.resources.cpu_count * _CPU_PERIOD},
        "devices": [{"allow": False, "access": "rwm"}],
    }


def _sysctls() -> dict[str, str]:
    # Unprivileged ping, as raw sockets are not to be had.
    settings = {"net.ipv4.ping_group_range": f"0 {ID_COUNT - 1}"}
    if Path("/proc/sys/net/ipv6").exists():
        # IPv6 is not routed for sandboxes; without it a program tries IPv4 at once. The loopback
        # interface exists already and keeps its ::1.
        settings["net.ipv6.conf.default.disable_ipv6"] = "1"
    return settings


def _mounts(spec: SandboxSpec, runtime: Path, volumes: Mapping[str, Path]) -> list[dict[str, Any]]:
    shared_memory = max(64, spec.resources.memory_mb // 2)
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _mount(
            "/dev/pts",
            "devpts",
            # The kernel counts terminals of the whole machine, against kernel.pty.max (4096).
            *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=128"),
        ),
        _mount(
            "/dev/shm",  # noqa: S108 (a mount point, not a temporary file)
            "tmpfs",
            *("nosuid", "noexec", "nodev", "mode=1777", f"size={shared_memory}m"),
        ),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        # Where runtimes of languages look how much memory and processor time there is.
        _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"),
        _bind("/.atoll", runtime, "ro"),
        *(_bind(path, source, "rw") for path, source in volumes.items()),
    ]


def _bind(destination: str, source: Path, access: str) -> dict[str, Any]:
    options = ["bind", access, "nosuid", "nodev"]
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": options,
    }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}
