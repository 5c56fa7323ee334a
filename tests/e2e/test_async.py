"""The async Python SDK, method by method; what is behind them the sync tests look at closely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    PtySize,
    SandboxQuery,
)
from e2b.exceptions import FileNotFoundException, SandboxNotFoundException, TimeoutException

from tests.server import RunningServer


@pytest.fixture(scope="module")
async def shared(server: RunningServer) -> AsyncIterator[AsyncSandbox]:
    """One sandbox for the tests that leave it alive."""
    async with await AsyncSandbox.create(
        timeout=300, metadata={"suite": "async"}, envs={"GREETING": "hi"}, **server.options
    ) as sandbox:
        yield sandbox


async def test_create_and_kill(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create("base", timeout=60, **server.options)
    assert await sandbox.is_running()
    assert await sandbox.kill() is True
    assert await sandbox.kill() is False
    assert await AsyncSandbox.kill(sandbox.sandbox_id, **server.options) is False
    assert await sandbox.is_running() is False
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()


async def test_connect(server: RunningServer, shared: AsyncSandbox) -> None:
    before = (await shared.get_info()).end_at
    other = await AsyncSandbox.connect(shared.sandbox_id, timeout=5, **server.options)
    assert (await other.commands.run("echo $GREETING")).stdout == "hi\n"
    assert (await shared.get_info()).end_at == before
    await other.connect(timeout=900)
    assert (await shared.get_info()).end_at > before + timedelta(seconds=400)


async def test_set_timeout(server: RunningServer, shared: AsyncSandbox) -> None:
    await shared.set_timeout(900)
    longer = (await shared.get_info()).end_at
    await AsyncSandbox.set_timeout(shared.sandbox_id, 300, **server.options)
    assert (await shared.get_info()).end_at < longer


async def test_get_info(server: RunningServer, shared: AsyncSandbox) -> None:
    info = await AsyncSandbox.get_info(shared.sandbox_id, **server.options)
    assert info == await shared.get_info()
    assert (info.sandbox_id, info.name) == (shared.sandbox_id, "base")
    assert info.metadata == {"suite": "async"}


async def test_list(server: RunningServer, shared: AsyncSandbox) -> None:
    pages = AsyncSandbox.list(query=SandboxQuery(metadata={"suite": "async"}), **server.options)
    found = [each.sandbox_id for each in await pages.next_items()]
    assert found == [shared.sandbox_id]
    assert not pages.has_next


async def test_update_network(shared: AsyncSandbox) -> None:
    await shared.update_network({"allow_internet_access": False})
    assert (await shared.get_info()).allow_internet_access is False
    await shared.update_network({"allow_internet_access": True})
    assert (await shared.get_info()).allow_internet_access is not False


async def test_get_host(shared: AsyncSandbox) -> None:
    await shared.files.write("www/index.html", "it works")
    serve = "cd www && exec python3 -m http.server 8000 --bind 127.0.0.1"
    await shared.commands.run(serve, background=True, timeout=0)
    await shared.commands.run("until ss -Hltn 'sport = :8000' | grep -q .; do sleep 0.1; done")
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{shared.get_host(8000)}/")
    assert answer.text == "it works"


async def test_commands(shared: AsyncSandbox) -> None:
    commands = shared.commands
    said: list[str] = []
    result = await commands.run("echo out; echo err >&2", on_stdout=said.append)
    assert (result.stdout, result.stderr, said) == ("out\n", "err\n", ["out\n"])
    with pytest.raises(CommandExitException):
        await commands.run("exit 3")
    with pytest.raises(TimeoutException):
        await commands.run("sleep 60", timeout=1)


async def test_stdin(shared: AsyncSandbox) -> None:
    commands = shared.commands
    by_pid = await commands.run("cat", background=True, stdin=True)
    assert by_pid.pid in {each.pid for each in await commands.list()}
    await commands.send_stdin(by_pid.pid, "typed")
    await commands.close_stdin(by_pid.pid)
    assert (await by_pid.wait()).stdout == "typed"
    by_handle = await commands.run("cat", background=True, stdin=True)
    await by_handle.send_stdin("typed")
    await by_handle.close_stdin()
    assert (await by_handle.wait()).stdout == "typed"


async def test_stream_input(shared: AsyncSandbox) -> None:
    handle = await shared.commands.run("cat", background=True, stdin=True)
    async with shared.commands.stream_input(handle.pid) as stream:
        for part in ("one ", "two ", "three"):
            await stream.send(part)
    last = shared.commands.stream_input(handle.pid)
    await last.send(" four")
    await last.close()
    await handle.close_stdin()
    assert (await handle.wait()).stdout == "one two three four"


async def test_kill_a_command(shared: AsyncSandbox) -> None:
    handle = await shared.commands.run("sleep 60", background=True)
    assert await handle.kill() is True
    with pytest.raises(CommandExitException):
        await handle.wait()
    assert await shared.commands.kill(handle.pid) is False


async def test_disconnect_and_connect_to_a_command(shared: AsyncSandbox) -> None:
    handle = await shared.commands.run("read line; echo $line", background=True, stdin=True)
    await handle.disconnect()
    again = await shared.commands.connect(handle.pid)
    await shared.commands.send_stdin(handle.pid, "there\n")
    assert (await again.wait()).stdout == "there\n"


async def test_pty(shared: AsyncSandbox) -> None:
    pty = shared.pty
    output = bytearray()
    terminal = await pty.create(PtySize(rows=33, cols=101), on_data=output.extend)
    await pty.send_stdin(terminal.pid, b"stty size\n")
    await wait_for(b"33 101", output)
    await pty.resize(terminal.pid, PtySize(rows=44, cols=120))
    async with pty.stream_input(terminal.pid) as stream:
        await stream.send(b"stty size\n")
    await wait_for(b"44 120", output)
    await terminal.disconnect()
    again = bytearray()
    second = await pty.connect(terminal.pid, on_data=again.extend)
    await pty.send_stdin(terminal.pid, b"echo $((6*7))\n")
    await wait_for(b"42", again)
    assert await pty.kill(terminal.pid) is True
    with pytest.raises(CommandExitException):
        await second.wait()
    assert await pty.kill(terminal.pid) is False


async def wait_for(expected: bytes, output: bytearray) -> None:
    """Wait until it has been said; fail loudly when it is not."""
    async with asyncio.timeout(15):
        while expected not in output:
            await asyncio.sleep(0.02)


async def test_files(shared: AsyncSandbox) -> None:
    files = shared.files
    assert (await files.write("a/b.txt", "text")).path == "/home/user/a/b.txt"
    assert await files.read("a/b.txt") == "text"
    assert bytes(await files.read("a/b.txt", format="bytes")) == b"text"
    stream = await files.read("a/b.txt", format="stream")
    assert b"".join([chunk async for chunk in stream]) == b"text"
    many = await files.write_files([{"path": f"m/{n}", "data": str(n)} for n in range(3)])
    assert [each.path for each in many] == [f"/home/user/m/{n}" for n in range(3)]
    assert [each.name for each in await files.list("a")] == ["b.txt"]
    assert await files.make_dir("a") is False
    assert (await files.get_info("a/b.txt")).size == 4
    assert (await files.rename("a/b.txt", "a/c.txt")).name == "c.txt"
    await files.remove("a")
    assert await files.exists("a") is False
    with pytest.raises(FileNotFoundException):
        await files.read("a/c.txt")


async def test_killing_the_sandbox_ends_a_running_command(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create(timeout=60, **server.options)
    handle = await sandbox.commands.run("sleep 60", background=True)
    waiting = asyncio.create_task(handle.wait())
    await sandbox.kill()
    with pytest.raises(TimeoutException, match="killed or reached its end of life"):
        await waiting


async def test_signed_urls(shared: AsyncSandbox) -> None:
    async with httpx.AsyncClient() as client:
        url = shared.upload_url("signed.txt", use_signature_expiration=60)
        assert (await client.post(url, files={"file": b"uploaded"})).status_code == 200
        assert await shared.files.read("signed.txt") == "uploaded"
        url = shared.download_url("signed.txt", use_signature_expiration=60)
        assert (await client.get(url)).text == "uploaded"
