"""The runtime directory: the same for the same inputs, and enough for an image that has nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from atoll.agent import runtime as runtime_module
from atoll.agent.client import AgentClient
from atoll.agent.model import ProcessConfig
from atoll.agent.runtime import MOUNT_POINT, agent_command, build_runtime
from atoll.errors import HostError, InvalidInput, Unauthenticated

from .conftest import dial, processes_below, until

_EMPTY = """
mount -t tmpfs none {root}
mkdir {root}/.atoll {root}/proc {root}/dev {root}/etc
mount --bind {runtime} {root}/.atoll
mount -o remount,bind,ro {root}/.atoll
mount --bind /dev {root}/dev
mount -t proc none {root}/proc
echo /lib/hostile.so > {root}/etc/ld.so.preload
exec chroot {root} "$@"
"""


def test_it_is_built_once(tmp_path: Path) -> None:
    first = build_runtime(tmp_path)
    stamp = (first / "agent.py").stat().st_mtime_ns
    assert build_runtime(tmp_path) == first
    assert (first / "agent.py").stat().st_mtime_ns == stamp
    assert os.listdir(tmp_path) == [first.name]


def test_another_agent_gets_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_runtime(tmp_path / "runtimes")
    changed = tmp_path / "agent"
    shutil.copytree(Path(runtime_module.__file__).parent, changed)
    with (changed / "guest" / "main.py").open("a") as file:
        file.write("\n# changed\n")
    monkeypatch.setattr(runtime_module, "_HERE", changed)
    second = build_runtime(tmp_path / "runtimes")
    assert second != first
    assert first.is_dir()


def test_everybody_can_use_it_and_it_is_small(runtime: Path) -> None:
    size = 0
    for path in (runtime, *runtime.rglob("*")):
        info = path.lstat()
        assert not stat.S_ISLNK(info.st_mode)
        assert info.st_mode & 0o444 == 0o444
        assert not info.st_mode & 0o022
        if path.is_dir():
            assert info.st_mode & 0o111 == 0o111
        else:
            size += info.st_size
    assert size < 32 * 1024 * 1024


def test_no_path_of_this_machine_is_in_it(runtime: Path) -> None:
    here = os.fsencode(Path(runtime_module.__file__).parent)
    for path in runtime.rglob("*.pyc"):
        assert here not in path.read_bytes(), path


def test_failed_builds_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "agent"
    shutil.copytree(Path(runtime_module.__file__).parent, broken)
    (broken / "guest" / "main.py").write_text("def broken(")
    monkeypatch.setattr(runtime_module, "_HERE", broken)
    with pytest.raises(HostError, match="cannot pack"):
        build_runtime(tmp_path / "runtimes")
    assert os.listdir(tmp_path / "runtimes") == []


async def test_it_runs_in_an_image_that_has_nothing(runtime: Path, area: Path) -> None:
    root = area / "root"
    root.mkdir()
    name = f"atoll-test-{area.name}"
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--pid", "--fork"),
            *("sh", "-ec", _EMPTY.format(root=root, runtime=runtime), "sh"),
            *agent_command(MOUNT_POINT),
            *("--name", name),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "LANG": "xx_YY.ISO-8859-15"},
    )
    client = AgentClient(lambda: dial(name))
    pid = 0
    try:
        await until(lambda: processes_below(process.pid) != [])
        (pid,) = processes_below(process.pid)
        assert (await client.hello(timeout=10)).pid == 1
        names = [entry.name for entry in await client.list_dir("/", user="root")]
        assert names == [".atoll", "dev", "etc", "proc"]
        with pytest.raises(InvalidInput, match="command '/bin/sh' was not found"):
            await client.start_process(ProcessConfig("/bin/sh"), user="root")
        with pytest.raises(Unauthenticated):
            await client.stat("/", user="user")

        async def content() -> object:
            yield "ü".encode()

        entry = await client.write_file("/ä/ö", user="root", chunks=content())  # type: ignore[arg-type]
        assert (entry.path, entry.owner) == ("/ä/ö", "0")
        # The interpreter of the runtime directory is the one program that can run here.
        loader, *arguments = agent_command(MOUNT_POINT)
        config = ProcessConfig(loader, (*arguments[:-1], "-c", "print(6 * 7)"))
        stream = await client.start_process(config, user="root")
        items = [item async for item in stream]
        assert items[0].data == b"42\n"  # type: ignore[union-attr]
        mapped = Path(f"/proc/{pid}/maps").read_text()
        outside = [
            line for line in mapped.splitlines() if "/lib/" in line and "/.atoll" not in line
        ]
        assert outside == []
    finally:
        await client.close()
        if pid:
            os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        assert process.stderr is not None
        # The loader would complain about the image's preload list, had it looked at it.
        assert b"preload" not in process.stderr.read()
        process.stderr.close()
