"""The agent with the powers it has in production: root of a user namespace, no more."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.agent.client import AgentClient
from atoll.agent.model import PtySize
from atoll.agent.runtime import agent_command, build_runtime
from atoll.errors import Forbidden, Unauthenticated

from .conftest import GROUP, PASSWD, Guest, dial, processes_below, until

# New user, mount and pid namespaces; the parent writes the id maps between the two lines.
_ENTER = """
import ctypes, os, sys
if ctypes.CDLL(None).unshare(0x10000000 | 0x00020000 | 0x20000000):
    sys.exit("unshare")
print("unshared", flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0), os.setgroups([]), os.setresuid(0, 0, 0)
if os.fork():
    os.wait()
else:
    os.execvp(sys.argv[1], sys.argv[1:])
"""
_PREPARE = """
mount -t proc none /proc
mount --bind {files}/passwd /etc/passwd
mount --bind {files}/group /etc/group
exec "$@"
"""


@pytest.fixture
async def guest(area: Path) -> AsyncIterator[Guest]:
    runtime = build_runtime(area / "runtime")
    (area / "runtime").chmod(0o755)
    home, common = area / "home", area / "common"
    home.mkdir()
    os.chown(home, 1_001_000, 1_001_000)
    common.mkdir()
    os.chown(common, 1_000_000, 1_000_000)
    (area / "passwd").write_text(PASSWD.format(home=home) + "far:x:70000:70000::/:\n")
    (area / "group").write_text(GROUP)
    name = f"atoll-test-{area.name}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _ENTER),
            *("sh", "-ec", _PREPARE.format(files=area), "sh"),
            *agent_command(str(runtime)),
            *("--name", name),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"unshared\n"
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{kind}").write_text("0 1000000 65536")
    process.stdin.write(b"\n")
    process.stdin.close()
    client = AgentClient(lambda: dial(name))
    pid = 0
    try:
        await until(lambda: processes_below(process.pid) != [])
        (pid,) = processes_below(process.pid)
        assert (await client.hello(timeout=10)).pid == 1
        yield Guest(name, pid, home, common, client)
        assert process.poll() is None, "the agent has died"
    finally:
        await client.close()
        if pid:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


async def test_everything_runs_as_whom_it_should(guest: Guest) -> None:
    for user, uid in (("root", "0"), ("user", "1000"), ("nobody", "65534")):
        result = await guest.run("id -u; cat /proc/self/oom_score_adj", user=user, cwd="/")
        assert result.stdout.split() == [uid.encode(), b"500"]
    assert Path(f"/proc/{guest.pid}/oom_score_adj").read_text() == "0\n"

    async def content() -> AsyncIterator[bytes]:
        yield b"x"

    entry = await guest.client.write_file("sub/f", user="user", chunks=content())
    assert entry.owner == "user"
    assert (guest.home / "sub" / "f").stat().st_uid == 1_001_000
    with pytest.raises(Forbidden):
        await guest.client.make_dir(f"{guest.common}/x", user="user")
    assert (await guest.client.make_dir(f"{guest.common}/x", user="root")).owner == "root"
    await guest.client.remove("sub", user="user")
    assert os.listdir(guest.home) == []


async def test_a_terminal_of_the_user(guest: Guest) -> None:
    result = await guest.run("tty; stat -c %U $(tty); echo > $(tty)", pty=PtySize(80, 24))
    assert b"/dev/pts/" in result.pty or b"not a tty" not in result.pty
    assert result.end.exit_code == 0


async def test_files_of_the_host_stay_the_hosts(guest: Guest) -> None:
    secret = guest.common / "secret"
    secret.write_text("of the host's root")
    secret.chmod(0o600)
    with pytest.raises(Forbidden):
        await guest.client.read_file(str(secret), user="root")
    with pytest.raises(Forbidden):
        await guest.client.read_file("/etc/shadow", user="root")


async def test_a_user_whose_number_does_not_exist_here(guest: Guest) -> None:
    with pytest.raises(Unauthenticated, match="ids of user 'far' do not exist"):
        await guest.client.list_dir("/", user="far")
    with pytest.raises(Unauthenticated, match="ids of user 'far' do not exist"):
        await guest.run("true", user="far")
    assert (await guest.run("id -u", user="root", cwd="/")).stdout == b"0\n"
