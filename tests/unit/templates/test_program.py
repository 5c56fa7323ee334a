"""Programs run to their end, and never longer than whoever asked for them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.templates.program import ProgramFailed, run


async def test_lines_come_one_by_one() -> None:
    lines: list[str] = []
    await run(["printf", r"one\n\ntwo\rthree\xff\nlast"], on_line=lines.append)
    assert lines == ["one", "two", "three\ufffd", "last"]


async def test_an_endless_line_is_cut() -> None:
    lines: list[str] = []
    await run(["head", "-c", "1000000", "/dev/zero"], on_line=lines.append)
    assert sum(map(len, lines)) == 1_000_000
    assert len(lines) > 1


async def test_a_failure_has_the_last_words() -> None:
    with pytest.raises(ProgramFailed) as raised:
        await run(["sh", "-c", "echo fine; echo 'E: broken'; echo bye; exit 7"], on_line=print)
    assert raised.value.status == 7
    assert raised.value.last_words == "E: broken"


async def test_a_missing_program_is_told() -> None:
    with pytest.raises(FileNotFoundError):
        await run(["/nonexistent"], on_line=print)


async def test_alone_it_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs none {tmp_path}; grep -c {tmp_path} /proc/mounts"
    script = f"echo $$; sleep 1234.5 & {mount}"
    lines: list[str] = []
    await run(["sh", "-ec", script], on_line=lines.append, alone=True)
    assert lines == ["1", "1"]
    assert not _mounted(tmp_path)
    assert not running("1234.5")


async def test_cancelled_it_is_killed() -> None:
    task = asyncio.create_task(run(_slow("2345.6"), on_line=print, alone=True))
    await until(lambda: running("2345.6"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not running("2345.6"))


async def test_it_dies_with_us_and_holds_the_lock_until_then(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = f"""
import asyncio, fcntl, os
from atoll.templates.program import run
lock = os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
asyncio.run(run({_slow("3456.7")!r}, on_line=print, alone=True, held=[lock]))
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    await until(lambda: running("3456.7"))
    assert not free(lock)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    await until(lambda: free(lock))
    assert not running("3456.7")


def _mounted(path: Path) -> bool:
    return str(path) in Path("/proc/mounts").read_text()


def _slow(seconds: str) -> list[str]:
    return ["sh", "-c", f"sleep {seconds}; true"]


def running(seconds: str) -> bool:
    """Whether `sleep` with this argument runs anywhere on the machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                    return True
    return False


def free(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
