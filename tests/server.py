"""Running the real server for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.isolation.instance import instance_name

TEMPLATES = os.environ.get("ATOLL_TEMPLATE_DIR", "/var/lib/atoll/templates")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningServer:
    """A server process, and how to reach it."""

    data_dir: Path
    port: int
    settings: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    url: str = field(init=False)
    api_key: str = field(init=False)

    @property
    def options(self) -> dict[str, Any]:
        """What the official SDK's methods take."""
        return {"api_url": self.url, "sandbox_url": self.url, "api_key": self.api_key}

    @property
    def headers(self) -> dict[str, str]:
        """What a plain request to the control plane needs."""
        return {"X-API-Key": self.api_key}

    def atoll(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line against this server's data directory."""
        command = [sys.executable, "-m", "atoll", *arguments, "--data-dir", str(self.data_dir)]
        environ = {**_clean_environ(), **self.settings}
        return subprocess.run(command, capture_output=True, text=True, env=environ, **options)

    def start(self, *, stop_sandboxes: bool) -> None:
        """Start the process and wait until it serves."""
        command = [sys.executable, "-m", "atoll", "serve", "--port", str(self.port)]
        command += ["--data-dir", str(self.data_dir)]
        if stop_sandboxes:
            command.append("--stop-sandboxes")
        environ = {**_clean_environ(), **self.settings}
        log = (self.data_dir / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        said = self.data_dir / "server.json"
        deadline = time.monotonic() + 600  # the first start may build the template
        while not (said.exists() and json.loads(said.read_text())["pid"] == self.process.pid):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log()}")
            time.sleep(0.02)
        self.url = json.loads(said.read_text())["url"]
        self.api_key = (self.data_dir / "local.key").read_text().strip()

    def log(self) -> str:
        """What the server has logged."""
        return (self.data_dir / "server.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it in order."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def assert_nothing_left(self) -> None:
        """Nothing on the machine may still name this server's data directory or its sandboxes."""
        left = find_leftovers(self.data_dir)
        assert not left, f"left behind: {left}"


def _clean_environ() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("ATOLL_", "E2B_"))
    }


@contextlib.contextmanager
def run_server(
    data_dir: Path, *, stop_sandboxes: bool = True, **settings: str | int
) -> Iterator[RunningServer]:
    """Run a server with these settings; it takes its sandboxes with it unless told otherwise."""
    environ = {f"ATOLL_{name.upper()}": str(value) for name, value in settings.items()}
    server = RunningServer(data_dir, free_port(), {"ATOLL_TEMPLATE_DIR": TEMPLATES, **environ})
    server.start(stop_sandboxes=stop_sandboxes)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def link_templates(directory: Path, *names: str) -> Path:
    """A directory of templates for a server that builds: what is there already, by links."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names or ("base",):
        (directory / name).symlink_to(Path(TEMPLATES) / name)
    return directory


def find_leftovers(data_dir: Path) -> list[str]:
    """Everything on this machine that belongs to a data directory: it should be empty in the end.

    Processes whose mounts or arguments name it, mounts, loop devices, and (by the instance's name)
    control groups, interfaces and nftables tables.
    """
    text = str(data_dir)
    left = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command:
                left.append(f"process {entry.name}: {command}")
            if text in (entry / "mountinfo").read_text():
                left.append(f"mount seen by process {entry.name}")
        except OSError:
            continue
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if text in backing.read_text():
                left.append(f"loop device {backing}")
    return left + _find_named(data_dir)


def _find_named(data_dir: Path) -> list[str]:
    name = instance_name(data_dir / "isolation")
    left = []
    for directory, _, _ in os.walk("/sys/fs/cgroup"):
        if name in directory:
            left.append(f"control group {directory}")
    left += [f"interface {each}" for each in os.listdir("/sys/class/net") if name in each]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    left += [f"nftables {line}" for line in tables.splitlines() if name in line]
    return left


def find_init(data_dir: Path, sandbox_id: str) -> int:
    """The host's number of a sandbox's first process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "status").read_text()
                groups = (entry / "cgroup").read_text()
            except OSError:
                continue
            inner = [line for line in status.splitlines() if line.startswith("NSpid:")]
            if sandbox_id in groups and inner and inner[0].split()[-1] == "1":
                return int(entry.name)
    raise AssertionError(f"no process of {sandbox_id}")


def kill_process(pid: int) -> None:
    """End a sandbox's first process, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
