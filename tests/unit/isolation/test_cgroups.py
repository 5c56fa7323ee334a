"""The files are as the kernel's documentation describes them, so that both versions are tested."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from atoll.errors import SandboxGone
from atoll.isolation.cgroups import ControlGroups, Hierarchy, find_hierarchies


def _write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_usage_of_version_2(tmp_path: Path) -> None:
    _write(
        tmp_path / "atoll-x" / "box",
        cpu__stat="usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
        memory__current="5000000\n",
        memory__max="104857600\n",
        memory__stat="anon 3000000\nactive_file 400000\ninactive_file 600000\n",
        memory__events="low 0\nhigh 0\nmax 5\noom 2\noom_kill 3\noom_group_kill 0\n",
        pids__current="7\n",
    )
    controllers = frozenset({"cpu", "memory", "pids", "cpuacct"})
    groups = ControlGroups("atoll-x", (Hierarchy(2, tmp_path, controllers),))
    usage = groups.usage("box")
    assert (usage.cpu_seconds, usage.memory_bytes, usage.cache_bytes) == (2.5, 4000000, 1000000)
    assert (usage.memory_limit_bytes, usage.processes) == (104857600, 7)
    assert groups.out_of_memory_kills("box") == 3
    assert groups.missing == []
    assert groups.names() == {"box"}
    (tmp_path / "atoll-x" / "box" / "memory.max").write_text("max\n")
    assert groups.usage("box").memory_limit_bytes == 0
    with pytest.raises(SandboxGone):
        groups.usage("other")
    assert groups.out_of_memory_kills("other") == 0


def test_usage_of_version_1(tmp_path: Path) -> None:
    _write(
        tmp_path / "memory" / "atoll-x" / "box",
        memory__usage_in_bytes="5000000\n",
        memory__limit_in_bytes="9223372036854771712\n",
        memory__stat="cache 9\ntotal_active_file 400000\ntotal_inactive_file 600000\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    _write(tmp_path / "cpuacct" / "atoll-x" / "box", cpuacct__usage="2500000000\n")
    _write(tmp_path / "pids" / "atoll-x" / "box", pids__current="7\n")
    kinds = ("memory", "cpuacct", "pids")
    groups = ControlGroups(
        "atoll-x", tuple(Hierarchy(1, tmp_path / kind, frozenset({kind})) for kind in kinds)
    )
    usage = groups.usage("box")
    assert (usage.cpu_seconds, usage.memory_bytes, usage.cache_bytes) == (2.5, 4000000, 1000000)
    assert (usage.memory_limit_bytes, usage.processes) == (0, 7)
    assert groups.out_of_memory_kills("box") == 1
    assert groups.missing == ["cpu"]


def test_swap_is_counted_where_the_files_are(tmp_path: Path) -> None:
    second = ControlGroups("x", (Hierarchy(2, tmp_path, frozenset({"memory"})),))
    assert not second.counts_swap
    _write(tmp_path / "some.slice", memory__swap__max="max\n")
    assert second.counts_swap
    first = ControlGroups("x", (Hierarchy(1, tmp_path, frozenset({"memory"})),))
    assert not first.counts_swap
    _write(tmp_path, memory__memsw__limit_in_bytes="0\n")
    assert first.counts_swap


def test_hierarchies_of_every_layout(tmp_path: Path) -> None:
    unified = tmp_path / "unified"
    _write(unified, cgroup__controllers="cpuset cpu io memory pids\n")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        f"41 31 0:38 / {unified} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        "35 31 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    )
    first, second = find_hierarchies(mountinfo)
    assert (first.version, first.mount) == (1, Path("/sys/fs/cgroup/cpu,cpuacct"))
    assert {"cpu", "cpuacct"} <= first.controllers
    assert (second.version, second.mount) == (2, unified)
    assert {"memory", "pids"} <= second.controllers


def test_tcp_is_limited_where_it_is_an_account_of_its_own(tmp_path: Path) -> None:
    group = tmp_path / "atoll-x" / "box"
    first = ControlGroups("atoll-x", (Hierarchy(1, tmp_path, frozenset({"memory"})),))
    second = ControlGroups("atoll-x", (Hierarchy(2, tmp_path, frozenset({"memory"})),))
    first.limit_tcp("box", 1 << 30)  # a kernel without it
    _write(group, memory__kmem__tcp__limit_in_bytes="none\n")
    file = group / "memory.kmem.tcp.limit_in_bytes"
    second.limit_tcp("box", 1 << 30)
    assert file.read_text() == "none\n"
    first.limit_tcp("box", 1 << 30)
    assert int(file.read_text()) == 256 << 20
    first.limit_tcp("box", 8 << 20)
    assert int(file.read_text()) == 16 << 20


def test_only_members_are_killed() -> None:
    groups = ControlGroups(f"atoll-test-{uuid.uuid4().hex[:8]}", find_hierarchies())
    with subprocess.Popen(["sleep", "60"]) as member, subprocess.Popen(["sleep", "60"]) as other:
        try:
            for hierarchy in groups.hierarchies:
                group = hierarchy.mount / groups.path("box")[1:]
                group.mkdir(parents=True)
                if (
                    hierarchy.version == 2 or "cpuset" not in hierarchy.controllers
                ):  # takes none before it is configured
                    (group / "cgroup.procs").write_text(str(member.pid))
            assert groups.has("box")
            assert groups.holds("box", member.pid)
            # As if the number of a member had come to mean another process meanwhile.
            groups._kill_member("box", other.pid)
            groups.remove("box")
            assert member.wait(5) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            member.kill()
            other.kill()
            groups.remove("box")
            groups.remove_parent()
    assert not groups.has("box")


def test_real_groups_are_emptied_and_removed() -> None:
    groups = ControlGroups(f"atoll-test-{uuid.uuid4().hex[:8]}", find_hierarchies())
    for hierarchy in groups.hierarchies:
        (hierarchy.mount / groups.path("box")[1:] / "below").mkdir(parents=True)
    assert groups.names() == {"box"}
    assert not groups.holds("box", os.getpid())
    groups.remove("box")
    groups.remove("box")
    assert groups.names() == set()
    groups.remove_parent()
    assert not any((each.mount / groups.path("")[1:-1]).exists() for each in groups.hierarchies)
