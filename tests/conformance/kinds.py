"""The drivers under test. A later driver adds a line to `KINDS` and changes nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.agent.runtime import build_runtime
from atoll.isolation.driver import Driver
from atoll.isolation.instance import instance_name
from atoll.isolation.oci import OciDriver

RUNTIMES = "ATOLL_TEST_RUNTIMES"
"""Names, to processes started by tests too, where the agent's runtime is built once for all."""


@dataclass(frozen=True)
class Kind:
    """One driver: how to make it, and how to find what it left on the host."""

    name: str
    make: Callable[..., Driver]
    """Takes the state directory, and `egress_allow` and `egress_deny`."""
    find_traces: Callable[[Path], list[str]]
    """All that is on the host because of a driver over that state directory."""


def make_oci(
    state: Path, *, egress_allow: tuple[str, ...] = (), egress_deny: tuple[str, ...] = ()
) -> Driver:
    """A driver that is not started."""
    return OciDriver(
        state,
        runtime_dir=build_runtime(Path(os.environ[RUNTIMES])),
        egress_allow=egress_allow,
        egress_deny=egress_deny,
    )


def find_oci_traces(state: Path) -> list[str]:
    """Processes, mounts, devices, groups, interfaces, rules and files."""
    text, name = str(state), instance_name(state)
    found = [f"file {path}" for path in state.glob("sandboxes/*")] if state.exists() else []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # Dead ones that the host's first process has yet to collect are no business of ours.
            dead = "State:\tZ" in (entry / "status").read_text()
            if f"/atoll-{name}/" in (entry / "cgroup").read_text() and not dead:
                found.append(f"process {entry.name}")
            if int(entry.name) != os.getpid() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(f"command {entry.name}")
    for task in Path("/proc").glob("[0-9]*/task/*/mountinfo"):
        with contextlib.suppress(OSError):
            if any(each in task.read_text() for each in (text, f"/run/atoll/{name}-")):
                found.append(f"mount {task}")
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if text in backing.read_text():
                found.append(f"device {backing}")
    found += [f"group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/atoll-{name}/*/")]
    found += [f"link {each}" for each in os.listdir("/sys/class/net") if f"atl{name}s" in each]
    rules = subprocess.run(
        ["nft", "list", "table", "inet", f"atoll_{name}"], capture_output=True, text=True
    ).stdout
    found += [f"rule {line}" for line in rules.splitlines() if "chain out_" in line]
    return found


KINDS = (Kind("oci", make_oci, find_oci_traces),)
