from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from atoll.isolation.bundle import ID_BASE, write_bundle
from atoll.isolation.driver import Resources, SandboxSpec
from atoll.isolation.seccomp import profile


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """What is written for a small sandbox."""
    write_bundle(
        tmp_path,
        SandboxSpec("box", (), Resources(2, 100, 100, 50), hostname="name"),
        command=("/agent",),
        root=Path("/root"),
        runtime=Path("/runtime"),
        volumes={"/data": Path("/volume")},
        cgroup="/atoll-x/box",
        swap_limits=True,
    )
    found = json.loads((tmp_path / "config.json").read_text())
    assert isinstance(found, dict)
    return found


def test_limits_are_passed_on(config: dict[str, Any]) -> None:
    resources = config["linux"]["resources"]
    assert resources["memory"] == {"limit": 100 << 20, "swap": 100 << 20}
    assert resources["pids"] == {"limit": 50}
    assert resources["cpu"]["quota"] == 2 * resources["cpu"]["period"]
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]


def test_what_is_counted_for_root_of_the_host_is_limited(config: dict[str, Any]) -> None:
    limits = {each["type"]: (each["soft"], each["hard"]) for each in config["process"]["rlimits"]}
    assert limits["RLIMIT_SIGPENDING"] == (1024, 1024)
    assert limits["RLIMIT_MSGQUEUE"] == (98304, 98304)
    terminals = next(each for each in config["mounts"] if each["type"] == "devpts")
    assert "max=128" in terminals["options"]


def test_every_namespace_is_made_anew(config: dict[str, Any]) -> None:
    namespaces = config["linux"]["namespaces"]
    kinds = {"pid", "mount", "ipc", "uts", "cgroup", "user", "network"}
    assert {each["type"] for each in namespaces} == kinds
    assert all("path" not in each for each in namespaces)
    assert config["linux"]["uidMappings"][0]["hostID"] == ID_BASE


def test_nothing_of_the_host_but_runtime_and_volumes_is_mounted(config: dict[str, Any]) -> None:
    binds = [each for each in config["mounts"] if each["source"].startswith("/")]
    assert [each["destination"] for each in binds] == ["/.atoll", "/data"]
    assert {"ro", "nosuid", "nodev"} <= set(binds[0]["options"])
    assert {"rw", "nosuid", "nodev"} <= set(binds[1]["options"])


def test_the_filter_allows_only_what_is_listed() -> None:
    found = profile()
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for rule in found["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }
    dangerous = "mount umount2 bpf keyctl setns clone unshare socket ptrace_scope io_uring_setup"
    assert not allowed & set(dangerous.split())
    assert {"read", "execve", "ptrace", "futex"} <= allowed
    unknown = next(rule for rule in found["syscalls"] if rule.get("errnoRet") == errno.ENOSYS)
    assert {"clone3", "io_setup", "io_submit"} <= set(unknown["names"])
    conditional = [rule for rule in found["syscalls"] if "args" in rule]
    assert {rule["names"][0] for rule in conditional} == {
        *("clone", "personality", "socket", "socketpair", "unshare"),
    }
