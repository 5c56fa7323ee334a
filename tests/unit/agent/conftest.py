"""Runs the real guest program as the first process of a pid namespace, with accounts of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.agent.client import AgentClient
from atoll.agent.model import Output, ProcessConfig, ProcessEnd, PtySize
from atoll.agent.runtime import agent_command, build_runtime

PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
user:x:1000:1000::{home}:/bin/sh
numberless:x:4294967295:1::/:
broken:x
"""
GROUP = "root:x:0:\nuser:x:1000:\nstaff:x:50:user\nnogroup:x:65534:\n"

_START = """
mount --bind {files}/passwd /etc/passwd
mount --bind {files}/group /etc/group
exec "$@"
"""


@dataclass
class Guest:
    """A running agent and where its files are."""

    name: str
    pid: int
    home: Path
    """The home directory of `user`, uid 1000."""
    common: Path
    """A directory of root's that everybody may write to."""
    client: AgentClient

    async def dial(self) -> socket.socket:
        return await dial(self.name)

    async def run(
        self,
        command: str,
        *,
        user: str = "user",
        stdin: bool = False,
        pty: PtySize | None = None,
        envs: dict[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        config = ProcessConfig("/bin/sh", ("-c", command), envs or {}, cwd)
        stream = await self.client.start_process(config, user=user, stdin=stdin, pty=pty)
        return await collect(stream)


@dataclass
class Result:
    stdout: bytes
    stderr: bytes
    pty: bytes
    end: ProcessEnd


async def collect(stream: AsyncIterator[Output | ProcessEnd]) -> Result:
    parts: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray(), "pty": bytearray()}
    end: ProcessEnd | None = None
    async for item in stream:
        assert end is None, "the end comes last"
        if isinstance(item, Output):
            parts[item.kind] += item.data
        else:
            end = item
    assert end is not None
    return Result(bytes(parts["stdout"]), bytes(parts["stderr"]), bytes(parts["pty"]), end)


async def dial(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, f"\0{name}")
    except BaseException:
        connection.close()
        raise
    return connection


async def until(condition: object, timeout: float = 5.0) -> None:
    """Wait until a callable says True."""
    assert callable(condition)
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def processes_below(pid: int) -> list[int]:
    """The children of a process, as the host numbers them."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def area() -> Iterator[Path]:
    """A directory that every user can reach (pytest's own are root's alone)."""
    with tempfile.TemporaryDirectory(prefix="atoll-agent-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
async def guest(runtime: Path, area: Path) -> AsyncIterator[Guest]:
    home, common = area / "home", area / "common"
    home.mkdir()
    os.chown(home, 1000, 1000)
    common.mkdir()
    common.chmod(0o1777)
    (area / "passwd").write_text(PASSWD.format(home=home))
    (area / "group").write_text(GROUP)
    name = f"atoll-test-{area.name}"
    process = subprocess.Popen(
        [
            # As under nohup, and in the background of a script.
            *("env", "--default-signal", "--ignore-signal=HUP,INT,QUIT"),
            *("unshare", "--mount", "--pid", "--fork", "--mount-proc"),
            *("sh", "-ec", _START.format(files=area), "sh"),
            *agent_command(str(runtime)),
            *("--name", name),
        ],
        stdin=subprocess.DEVNULL,
    )
    client = AgentClient(lambda: dial(name))
    pid = 0
    try:
        await until(lambda: processes_below(process.pid) != [])
        (pid,) = processes_below(process.pid)
        info = await client.hello(timeout=10)
        assert info.pid == 1
        yield Guest(name, pid, home, common, client)
        assert process.poll() is None, "the agent has died"
    finally:
        await client.close()
        if pid:
            os.kill(pid, signal.SIGKILL)  # And with it everything in its namespace.
        process.wait()
