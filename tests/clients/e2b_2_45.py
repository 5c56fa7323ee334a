"""Tests for the interpreter of `.venv-clients`, with e2b 2.45.1; test_python_2_45.py runs them.

This version creates through `POST /sandboxes` and connects through `/sandboxes/{id}/connect`.
"""

from __future__ import annotations

import importlib.metadata
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from e2b import AsyncSandbox, CommandExitException, PtySize, Sandbox, SandboxQuery
from e2b.exceptions import (
    FileNotFoundException,
    SandboxException,
    SandboxNotFoundException,
    TimeoutException,
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox.create(timeout=120, envs={"GREETING": "hi"}, metadata={"who": "old"}) as made:
        yield made


def test_it_is_the_old_version() -> None:
    assert importlib.metadata.version("e2b") == "2.45.1"


def test_create_and_run(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo $GREETING; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("hi\n", "err\n", 0)
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("exit 3")
    assert caught.value.exit_code == 3


def test_it_is_secured(sandbox: Sandbox) -> None:
    assert sandbox._envd_access_token


def test_info_and_list(sandbox: Sandbox) -> None:
    info = sandbox.get_info()
    assert (info.sandbox_id, info.name, info.envd_version) == (sandbox.sandbox_id, "base", "0.6.7")
    assert info.metadata == {"who": "old"}
    found = Sandbox.list(query=SandboxQuery(metadata={"who": "old"})).next_items()
    assert [each.sandbox_id for each in found] == [sandbox.sandbox_id]


def test_connect_never_shortens(sandbox: Sandbox) -> None:
    before = sandbox.get_info().end_at
    other = Sandbox.connect(sandbox.sandbox_id, timeout=5)
    assert other.commands.run("echo $GREETING").stdout == "hi\n"
    assert sandbox.get_info().end_at == before
    sandbox.connect(timeout=600)
    assert sandbox.get_info().end_at > before + timedelta(seconds=400)


def test_set_timeout(sandbox: Sandbox) -> None:
    sandbox.set_timeout(900)
    before = sandbox.get_info().end_at
    sandbox.set_timeout(300)
    assert sandbox.get_info().end_at < before


def test_files(sandbox: Sandbox) -> None:
    files = sandbox.files
    assert files.write("a/b.txt", "text").path == "/home/user/a/b.txt"
    assert files.read("a/b.txt") == "text"
    assert bytes(files.read("a/b.txt", format="bytes")) == b"text"
    many = files.write_files([{"path": f"m/{n}", "data": str(n)} for n in range(3)])
    assert [each.path for each in many] == [f"/home/user/m/{n}" for n in range(3)]
    assert [each.name for each in files.list("a")] == ["b.txt"]
    assert files.make_dir("a") is False
    assert files.rename("a/b.txt", "a/c.txt").name == "c.txt"
    files.remove("a")
    assert not files.exists("a")
    with pytest.raises(FileNotFoundException):
        files.read("a/c.txt")


def test_background_stdin_list_and_kill(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    assert handle.pid in {each.pid for each in sandbox.commands.list()}
    sandbox.commands.send_stdin(handle.pid, "typed")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "typed"
    sleeping = sandbox.commands.run("sleep 60", background=True)
    assert sandbox.commands.kill(sleeping.pid) is True
    with pytest.raises(CommandExitException):
        sleeping.wait()
    assert sandbox.commands.kill(sleeping.pid) is False


def test_connect_to_a_process(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("read line; echo $line", background=True, stdin=True)
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "there\n")
    assert again.wait().stdout == "there\n"


def test_pty(sandbox: Sandbox) -> None:
    output = bytearray()
    terminal = sandbox.pty.create(PtySize(rows=33, cols=101))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    terminal.wait(on_pty=output.extend)
    assert b"33 101" in output


def test_a_commands_timeout(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 60", timeout=1)


def test_kill() -> None:
    sandbox = Sandbox.create(timeout=60)
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert sandbox.is_running() is False
    with pytest.raises(SandboxNotFoundException):
        sandbox.set_timeout(10)
    with pytest.raises(SandboxException):
        Sandbox.connect(sandbox.sandbox_id)
    with pytest.raises(TimeoutException, match=r"reached its end of life|was not found"):
        sandbox.commands.run("true")


def test_killed_while_a_command_runs() -> None:
    sandbox = Sandbox.create(timeout=60)
    handle = sandbox.commands.run("echo up; sleep 60", background=True)
    threading.Timer(0.3, sandbox.kill).start()
    # Over plain HTTP/1.1 this version calls every dropped stream a timeout, whatever the cause;
    # with TLS it learns by HTTP/2 what happened.
    plain = "E2B_API_URL" in os.environ
    message = "sandbox timeout" if plain else "killed or reached its end of life"
    with pytest.raises(TimeoutException, match=message):
        handle.wait()


def test_the_end_of_life_comes() -> None:
    sandbox = Sandbox.create(timeout=60)
    sandbox.set_timeout(0)
    deadline = time.monotonic() + 10
    while sandbox.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_unsecured() -> None:
    with Sandbox.create(timeout=60, secure=False) as sandbox:
        assert sandbox._envd_access_token is None
        assert sandbox.commands.run("echo open").stdout == "open\n"


def test_async() -> None:
    import asyncio

    async def use() -> None:
        sandbox = await AsyncSandbox.create(timeout=60)
        try:
            assert (await sandbox.commands.run("echo async")).stdout == "async\n"
            await sandbox.files.write("a", "b")
            assert await sandbox.files.read("a") == "b"
            other = await AsyncSandbox.connect(sandbox.sandbox_id)
            assert await other.is_running()
        finally:
            assert await sandbox.kill()

    asyncio.run(use())
