"""What idle sandboxes and an idle server cost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from e2b import Sandbox

from bench.servers import Target, run_atoll
from bench.table import Row

_COUNT = 200


def find_sandbox_processes() -> list[int]:
    """Processes in a user namespace that is not ours: those of sandboxes."""
    own = Path("/proc/self/ns/user").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/user").readlink() != own:
                    found.append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue
    return found


def read_pss(pid: int) -> int:
    """Bytes that a process has, with its share of what it has together with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


def read_rss(pid: int) -> int:
    """Bytes that a process has in memory, shared or not."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def read_available() -> int:
    """Bytes that this machine could still give away."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _create_all(target: Target, count: int) -> list[Sandbox]:
    with ThreadPoolExecutor(8) as threads:
        return list(
            threads.map(lambda _: Sandbox.create(timeout=600, **target.options), range(count))
        )


def _cgroup_bytes() -> int:
    """Memory charged to all sandboxes' control groups together, on whichever layout."""
    roots = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
    total = 0
    for root in roots:
        for group in root.glob("atoll-*/*"):
            for name in ("memory.usage_in_bytes", "memory.current"):
                file = group / name
                if file.exists():
                    total += int(file.read_text())
    return total


def measure_memory() -> list[Row]:
    """Memory of the idle server, and per sandbox with 200 idle ones at once."""
    with run_atoll(pool_size=0) as target:
        time.sleep(2)
        server = read_rss(target.pid)
        before = set(find_sandbox_processes())
        free, charged = read_available(), _cgroup_bytes()
        began = time.perf_counter()
        sandboxes = _create_all(target, _COUNT)
        wall = time.perf_counter() - began
        time.sleep(3)
        mine = set(find_sandbox_processes()) - before
        pss = sum(read_pss(pid) for pid in mine) / _COUNT
        group = (_cgroup_bytes() - charged) / _COUNT
        drop = (free - read_available()) / _COUNT
        loaded = read_rss(target.pid)
        good = all(each.commands.run("true").exit_code == 0 for each in sandboxes)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda each: each.kill(), sandboxes))
    mb = 1 << 20
    return [
        Row(
            "memory of the idle server (RSS)",
            f"{server / mb:.0f} MB",
            f"with {_COUNT} sandboxes {loaded / mb:.0f} MB",
            None,
            "≤ 150 MB",
            server <= 150 * mb,
        ),
        Row(
            "memory per idle sandbox (PSS of all its processes)",
            f"{pss / mb:.1f} MB",
            f"control group {group / mb:.1f} MB, drop of MemAvailable {drop / mb:.1f} MB",
            None,
            "≤ 12 MB",
            pss <= 12 * mb,
        ),
        Row(
            f"{_COUNT} idle sandboxes at once, cold",
            f"{len(sandboxes)} in {wall:.1f} s, each answers: {'yes' if good else 'NO'}",
            "",
            None,
            "all",
            good and len(sandboxes) == _COUNT,
        ),
    ]
