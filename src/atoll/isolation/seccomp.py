"""Which system calls a sandbox may make.

The list, `seccomp.json`, says what is allowed; all else fails with EPERM, and calls newer than the
newest on the list with ENOSYS, which libraries take as an older kernel (the runtime sees to that).
What is not on it, on purpose: mounts, namespaces, modules, bpf, performance events, userfaultfd,
io_uring and the asynchronous interface before it, the kernel's key rings, handles of files, the
clock's hands, swap, the kernel's log, and socket families other than unix, inet, inet6 and four
kinds of netlink. A filter belongs to one machine architecture: calls through another one (32-bit
programs on a 64-bit machine) kill the caller.
"""

from __future__ import annotations

import errno
import json
import platform
from functools import cache
from importlib.resources import files
from typing import Any

from atoll.errors import HostError

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


@cache
def profile() -> dict[str, Any]:
    """The filter in the form of the OCI runtime specification (`linux.seccomp`)."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise HostError(f"no system call filter for {machine!r}", remedy="use x86_64 or aarch64")
    listed = json.loads(files(__package__).joinpath("seccomp.json").read_text())
    rules: list[dict[str, Any]] = [
        {"names": _names(listed["allow"]), "action": "SCMP_ACT_ALLOW"},
        {
            "names": _names(listed["unknown"]),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": errno.ENOSYS,
        },
    ]
    for rule in listed["allow_when"]:
        for arguments in _arguments(rule):
            rules.append(
                {"names": [rule["syscall"]], "action": "SCMP_ACT_ALLOW", "args": arguments}
            )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _names(groups: dict[str, str]) -> list[str]:
    return sorted({name for group in groups.values() for name in group.split()})


def _arguments(rule: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """One list of conditions for every combination of the values that a rule accepts."""
    first = [_condition(rule["argument"], value, rule.get("mask")) for value in rule["values"]]
    if "and_argument" not in rule:
        return [[condition] for condition in first]
    second = [_condition(rule["and_argument"], value, None) for value in rule["and_values"]]
    return [[one, other] for one in first for other in second]


def _condition(index: int, value: str, mask: str | None) -> dict[str, Any]:
    if mask is None:
        return {"index": index, "value": int(value, 16), "op": "SCMP_CMP_EQ"}
    return {
        "index": index,
        "value": int(mask, 16),
        "valueTwo": int(value, 16),
        "op": "SCMP_CMP_MASKED_EQ",
    }
