"""Processes: output, ends, signals, input, terminals, attaching."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.agent.client import AgentClient
from atoll.agent.model import Output, ProcessConfig, ProcessEnd, PtySize
from atoll.agent.streams import ProcessStream
from atoll.errors import Exhausted, Forbidden, InvalidInput, ProcessNotFound, Unauthenticated

from .conftest import Guest, collect, processes_below, until


def shell(command: str) -> ProcessConfig:
    return ProcessConfig("/bin/sh", ("-c", command))


async def read_until(stream: ProcessStream, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(10):
        while text not in seen:
            item = await anext(stream)
            assert isinstance(item, Output), item
            seen += item.data
    return seen


async def test_output_and_end(guest: Guest) -> None:
    result = await guest.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert result.end == ProcessEnd(3, True, "exit status 3", "exit status 3")


async def test_success_has_no_error(guest: Guest) -> None:
    assert (await guest.run("true")).end == ProcessEnd(0, True, "exit status 0", None)


@pytest.mark.parametrize(
    ("name", "words"),
    [("KILL", "killed"), ("TERM", "terminated"), ("USR1", "user defined signal 1")],
)
async def test_end_by_a_signal_is_told_as_go_does(guest: Guest, name: str, words: str) -> None:
    end = (await guest.run(f"kill -{name} $$")).end
    assert end == ProcessEnd(-1, False, f"signal: {words}", f"signal: {words}")


async def test_runs_as_the_user(guest: Guest) -> None:
    out = (
        await guest.run("id -u; id -g; id -G; pwd; echo $HOME $USER $LOGNAME $PATH; umask")
    ).stdout
    uid, gid, groups, cwd, env, umask = out.decode().splitlines()
    assert (uid, gid, groups, umask) == ("1000", "1000", "1000 50", "0022")
    assert cwd == str(guest.home)
    assert env == (
        f"{guest.home} user user /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )


async def test_every_id_and_capability_is_the_users(guest: Guest) -> None:
    status = (await guest.run("cat /proc/self/status")).stdout.decode()
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert lines["Uid"] == "1000\t1000\t1000\t1000"
    assert lines["Gid"] == "1000\t1000\t1000\t1000"
    assert int(lines["CapPrm"], 16) == int(lines["CapEff"], 16) == 0
    # make hands 32 and 33 down ignored; they are the C library's own.
    internal = 0b11 << 31
    for mask in ("SigIgn", "SigBlk"):
        assert int(lines[mask], 16) & ~internal == 0, mask


async def test_processes_die_of_lack_of_memory_before_the_agent(guest: Guest) -> None:
    own = int(Path(f"/proc/{guest.pid}/oom_score_adj").read_text())
    for pty in (None, PtySize(80, 24)):
        result = await guest.run("cat /proc/self/oom_score_adj", pty=pty)
        assert int(result.stdout or result.pty) == 500
    assert int(Path(f"/proc/{guest.pid}/oom_score_adj").read_text()) == own < 500


async def test_only_the_standard_descriptors_are_inherited(guest: Guest) -> None:
    out = (await guest.run("ls /proc/self/fd", user="root")).stdout.split()
    assert out == [b"0", b"1", b"2", b"3"]  # The last is the directory that ls reads.


async def test_environment_comes_on_top(guest: Guest) -> None:
    result = await guest.run('echo "$A|$HOME"', envs={"A": "ä b", "HOME": "/x"})
    assert result.stdout == "ä b|/x\n".encode()


async def test_a_user_without_home_starts_in_the_root(guest: Guest) -> None:
    assert (await guest.run("pwd", user="nobody")).stdout == b"/\n"


async def test_cwd(guest: Guest) -> None:
    (guest.home / "sub").mkdir()
    assert (await guest.run("pwd", cwd="/usr")).stdout == b"/usr\n"
    assert (await guest.run("pwd", cwd="sub")).stdout == f"{guest.home}/sub\n".encode()
    assert (await guest.run("pwd", cwd="~/sub")).stdout == f"{guest.home}/sub\n".encode()


async def test_what_cannot_start_says_why(guest: Guest) -> None:
    with pytest.raises(InvalidInput, match="cwd '/missing' does not exist"):
        await guest.run("true", cwd="/missing")
    with pytest.raises(InvalidInput, match="cwd '/etc/passwd' is not a directory"):
        await guest.run("true", cwd="/etc/passwd")
    with pytest.raises(Forbidden, match="cwd '/root'"):
        await guest.run("true", cwd="/root")
    with pytest.raises(Unauthenticated, match="invalid username: 'who'"):
        await guest.run("true", user="who")
    start = guest.client.start_process
    with pytest.raises(InvalidInput, match="command 'no-such-thing' was not found"):
        await start(ProcessConfig("no-such-thing"), user="user")
    with pytest.raises(InvalidInput, match="command '/no/such' was not found"):
        await start(ProcessConfig("/no/such"), user="user")
    with pytest.raises(InvalidInput, match="command '' was not found"):
        await start(ProcessConfig(""), user="user")
    with pytest.raises(Forbidden, match="cannot run '/etc/passwd'"):
        await start(ProcessConfig("/etc/passwd"), user="user")
    plain = guest.common / "plain"
    plain.write_text("no program")
    plain.chmod(0o755)
    with pytest.raises(InvalidInput, match="exec format error"):
        await start(ProcessConfig(str(plain)), user="user")
    with pytest.raises(InvalidInput, match="argument list too long"):
        await start(ProcessConfig("/bin/true", ("x" * 200_000,)), user="user")
    with pytest.raises(InvalidInput, match="zero byte"):
        await start(ProcessConfig("/bin/true", ("a\0b",)), user="user")
    with pytest.raises(InvalidInput, match="envs"):
        await start(ProcessConfig("/bin/true", (), {"A=B": "c"}), user="user")
    with pytest.raises(InvalidInput, match="larger than"):
        await start(ProcessConfig("/bin/true", ("x" * 4_000_000,)), user="user")
    assert await guest.client.list_processes() == []
    assert processes_below(guest.pid) == []


async def test_commands_are_found_in_the_path_of_the_process(guest: Guest) -> None:
    tool = guest.home / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    config = ProcessConfig("tool", (), {"PATH": f"/nonexistent:/etc/passwd:{guest.home}"})
    assert (
        await collect(await guest.client.start_process(config, user="user"))
    ).stdout == b"found\n"


async def test_the_limit_of_processes_is_a_clear_error(guest: Guest) -> None:
    # A limit of the kernel for uid 1000, in the place of the sandbox's control group.
    before = resource.prlimit(guest.pid, resource.RLIMIT_NPROC)
    stream = await guest.client.start_process(shell("sleep 60"), user="user")
    resource.prlimit(guest.pid, resource.RLIMIT_NPROC, (1, before[1]))
    with pytest.raises(Exhausted, match="limit of processes is reached"):
        await guest.run("true; true")
    resource.prlimit(guest.pid, resource.RLIMIT_NPROC, before)
    assert (await guest.run("echo fine")).stdout == b"fine\n"
    await guest.client.signal(stream.pid, signal.SIGKILL)
    await collect(stream)
    assert processes_below(guest.pid) == []


async def test_output_is_bytes(guest: Guest) -> None:
    result = await guest.run(
        "python3 -c 'import sys; sys.stdout.buffer.write("
        r"""b"a" * 8191 + b"\xe2" * 3 + bytes(range(256)))'"""
    )
    assert result.stdout == b"a" * 8191 + b"\xe2" * 3 + bytes(range(256))


async def test_large_output_waits_for_a_slow_reader(guest: Guest) -> None:
    total = 64 * 1024 * 1024
    before = private_bytes(guest.pid)
    stream = await guest.client.start_process(shell(f"head -c {total} /dev/zero"), user="user")
    await asyncio.sleep(0.5)
    assert len(await guest.client.list_processes()) == 1, "it must wait for its reader"
    assert private_bytes(guest.pid) - before < 3 * 1024 * 1024
    seen = 0
    async for item in stream:
        if isinstance(item, Output):
            assert set(item.data) == {0}
            seen += len(item.data)
    assert seen == total


def private_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


async def test_a_slow_reader_does_not_stop_others_processes(guest: Guest) -> None:
    slow = await guest.client.start_process(shell("head -c 50000000 /dev/zero"), user="user")
    for _ in range(5):
        assert (await guest.run("echo quick")).stdout == b"quick\n"
    await slow.close()
    await until_none_runs(guest)


async def until_none_runs(guest: Guest) -> None:
    async with asyncio.timeout(10):
        while await guest.client.list_processes():
            await asyncio.sleep(0.01)


async def test_every_attached_client_gets_all_output(guest: Guest) -> None:
    first = await guest.client.start_process(
        shell("read x; seq 100000; echo end >&2"), user="user", stdin=True
    )
    others = [await guest.client.attach_process(first.pid) for _ in range(5)]
    await guest.client.send_input(first.pid, b"go\n", pty=False)
    results = await asyncio.gather(*(collect(stream) for stream in (first, *others)))
    expected = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    for result in results:
        assert result.stdout == expected
        assert result.stderr == b"end\n"
        assert result.end.exit_code == 0
    assert {stream.pid for stream in others} == {first.pid}


async def test_whoever_waits_for_the_end_only_counts_as_nobody(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("read a; echo held; exit 3"), user="user", stdin=True
    )
    waiting = await guest.client.attach_process(stream.pid, output=False)
    gone = await guest.client.attach_process(stream.pid, output=False)
    await gone.close()
    await stream.close()
    await guest.client.send_input(stream.pid, b"1\n", pty=False)
    result = await collect(waiting)
    assert (result.stdout, result.end.exit_code) == (b"", 3)
    # The output is still there for the next who listens, and the end for the next who waits.
    late = await collect(await guest.client.attach_process(stream.pid, output=False))
    assert late.end.exit_code == 3
    again = await collect(await guest.client.attach_process(stream.pid))
    assert (again.stdout, again.end.exit_code) == (b"held\n", 3)


async def test_an_end_that_was_sent_to_somebody_can_be_asked_for_again(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("exit 3"), user="user")
    pid, first = stream.pid, await collect(stream)
    # Whoever left at that moment may not have got it.
    for _ in range(2):
        again = await collect(await guest.client.attach_process(pid, output=False))
        assert again.end == first.end
    with pytest.raises(ProcessNotFound):
        await guest.client.attach_process(pid)
    for _ in range(256):
        await collect(await guest.client.start_process(shell(""), user="user"))
    with pytest.raises(ProcessNotFound):
        await guest.client.attach_process(pid, output=False)


async def test_held_output_comes_first(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("read a; echo held; echo error >&2; read b; echo live"), user="user", stdin=True
    )
    await stream.close()
    await guest.client.send_input(stream.pid, b"1\n", pty=False)
    await asyncio.sleep(0.2)
    again = await guest.client.attach_process(stream.pid)
    await read_until(again, b"held\n")
    await guest.client.send_input(stream.pid, b"2\n", pty=False)
    rest = await collect(again)
    assert rest.stdout.endswith(b"live\n")
    assert rest.end.exit_code == 0


async def test_only_the_last_megabyte_is_held(guest: Guest) -> None:
    before = private_bytes(guest.pid)
    stream = await guest.client.start_process(
        shell("read a; seq 2000000; read b"), user="user", stdin=True
    )
    await stream.close()
    await guest.client.send_input(stream.pid, b"\n", pty=False)
    # The process is never stopped by having no reader: it comes to its second read.
    async with asyncio.timeout(20):
        while b"pipe_read" not in Path(f"/proc/{processes_below(guest.pid)[0]}/wchan").read_bytes():
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)
    assert private_bytes(guest.pid) - before < 4 * 1024 * 1024
    again = await guest.client.attach_process(stream.pid)
    await guest.client.close_stdin(stream.pid)
    result = await collect(again)
    full = "".join(f"{n}\n" for n in range(1, 2000001)).encode()
    assert full.endswith(result.stdout)
    assert 900 * 1024 < len(result.stdout) <= 1024 * 1024


async def test_an_end_that_nobody_saw_is_kept(guest: Guest) -> None:
    config = shell("sleep 0.1; echo last words; exit 7")
    stream = await guest.client.start_process(config, user="user", tag="job")
    await stream.close()
    await until_none_runs(guest)
    for selector in (stream.pid, "job", "job"):
        again = await guest.client.attach_process(selector)
        assert again.pid == stream.pid
        result = await collect(again)
        assert result.stdout == b"last words\n"
        assert result.end.exit_code == 7
    with pytest.raises(ProcessNotFound):
        await guest.client.signal(stream.pid, signal.SIGKILL)
    with pytest.raises(ProcessNotFound):
        await guest.client.send_input(stream.pid, b"x", pty=False)


async def test_an_end_that_was_seen_is_not_kept(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("true"), user="user")
    await collect(stream)
    with pytest.raises(ProcessNotFound, match=f"process with pid {stream.pid} not found"):
        await guest.client.attach_process(stream.pid)


async def test_unseen_ends_are_bounded(guest: Guest) -> None:
    pids = []
    for _ in range(80):
        stream = await guest.client.start_process(shell("sleep 0.05"), user="user")
        pids.append(stream.pid)
        await stream.close()
    await until_none_runs(guest)
    found = 0
    for pid in pids:
        try:
            await collect(await guest.client.attach_process(pid))
            found += 1
        except ProcessNotFound:
            continue
    assert found == 64


async def test_the_list_shows_what_was_asked_for(guest: Guest) -> None:
    config = ProcessConfig("/bin/sh", ("-c", "sleep 60", "ü"), {"K": "v"}, "/tmp")
    stream = await guest.client.start_process(config, user="user", tag="t1")
    plain = await guest.client.start_process(ProcessConfig("sleep", ("60",)), user="root")
    first, second = await guest.client.list_processes()
    assert (first.pid, first.tag, first.config) == (stream.pid, "t1", config)
    assert (second.pid, second.tag, second.config.cwd) == (plain.pid, None, None)
    await guest.client.signal("t1", signal.SIGKILL)
    assert (await collect(stream)).end.status == "signal: killed"
    assert [item.pid for item in await guest.client.list_processes()] == [plain.pid]


async def test_a_large_process_is_listed(guest: Guest) -> None:
    """As large as the kernel takes, more or less."""
    envs = {f"K{number}": 'ü"[' * 25_000 for number in range(10)}
    args = ("60", *("x" for _ in range(20_000)))
    config = ProcessConfig("/bin/sh", ("-c", 'sleep "$0"', *args), envs, "/")
    await guest.client.start_process(config, user="user")
    (found,) = await guest.client.list_processes()
    assert found.config == config


async def test_a_signal_reaches_the_group(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("sleep 60 & sleep 60 & echo up; wait"), user="user"
    )
    await read_until(stream, b"up\n")
    await guest.client.signal(stream.pid, signal.SIGTERM)
    async with asyncio.timeout(5):
        assert (await collect(stream)).end.status == "signal: terminated"
    assert processes_below(guest.pid) == []
    with pytest.raises(ProcessNotFound):
        await guest.client.signal(stream.pid, signal.SIGTERM)


async def test_a_lifetime_ends_the_group_whether_anybody_listens_or_not(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("sleep 60 & sleep 60 & echo up; wait"), user="user", lifetime=0.5
    )
    await read_until(stream, b"up\n")
    await stream.close()
    async with asyncio.timeout(5):
        while processes_below(guest.pid):
            await asyncio.sleep(0.01)


async def test_a_lifetime_is_over_with_the_process(guest: Guest) -> None:
    """Its number may be another's when the time comes: nothing is killed then."""
    stream = await guest.client.start_process(shell("sleep 3 & echo up"), user="user", lifetime=0.3)
    await read_until(stream, b"up\n")
    async with asyncio.timeout(10):
        assert (await collect(stream)).end.exit_code == 0


async def test_output_held_open_by_a_grandchild_keeps_the_process(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("(sleep 0.5; echo late) & echo now"), user="user"
    )
    async with asyncio.timeout(5):
        result = await collect(stream)
    assert result.stdout == b"now\nlate\n"
    assert result.end.exit_code == 0


async def test_a_kill_ends_it_even_if_a_daemon_holds_the_output(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("setsid sleep 60 & echo up"), user="user")
    await read_until(stream, b"up\n")
    await until(lambda: all("sh" not in comm(p) for p in processes_below(guest.pid)))
    await guest.client.signal(stream.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert (await collect(stream)).end.exit_code == 0


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def test_orphans_are_reaped(guest: Guest) -> None:
    await guest.run("for i in 1 2 3 4 5; do setsid sh -c 'sleep 0.1' >/dev/null 2>&1 & done")
    await until(lambda: processes_below(guest.pid) == [])


async def test_the_agent_cannot_be_killed_from_inside(guest: Guest) -> None:
    for user in ("user", "root"):
        await guest.run("for s in $(seq 1 31); do kill -$s 1; done", user=user)
    assert (await guest.run("echo alive")).stdout == b"alive\n"


async def test_a_user_cannot_look_into_the_agent(guest: Guest) -> None:
    result = await guest.run("cat /proc/1/environ; ls /proc/1/fd; cat /proc/1/mem; exit 0")
    assert result.stdout == b""


async def test_processes_inside_may_not_speak_to_the_agent(guest: Guest) -> None:
    code = (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('\\0{guest.name}');"
        "s.settimeout(5); s.sendall(b'J\\0\\0\\0\\x0e{}'); print(s.recv(10))"
    )
    result = await guest.run(f'python3 -c "{code}"', user="root")
    assert b"ok" not in result.stdout
    assert b"b''" in result.stdout or b"Error" in result.stderr


# Input -------------------------------------------------------------------------------------------


async def test_stdin(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("cat"), user="user", stdin=True)
    await guest.client.send_input(stream.pid, b"one ", pty=False)
    await guest.client.send_input(stream.pid, b"two", pty=False)
    await guest.client.send_input(stream.pid, b"", pty=False)
    await guest.client.close_stdin(stream.pid)
    assert (await collect(stream)).stdout == b"one two"


async def test_without_stdin_it_is_empty(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("cat; sleep 1"), user="user")
    with pytest.raises(InvalidInput, match="stdin of process"):
        await guest.client.send_input(stream.pid, b"x", pty=False)
    with pytest.raises(InvalidInput, match="stdin of process"):
        await guest.client.close_stdin(stream.pid)
    assert (await collect(stream)).stdout == b""


async def test_much_input_goes_through_a_small_pipe(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("sleep 0.3; md5sum"), user="user", stdin=True)
    data = os.urandom(5_000_000)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 700_000):
            yield data[start : start + 700_000]

    await guest.client.send_input(stream.pid, chunks(), pty=False)
    await guest.client.close_stdin(stream.pid)
    import hashlib

    expected = hashlib.md5(data).hexdigest().encode()
    assert (await collect(stream)).stdout.split()[0] == expected


async def test_a_process_that_does_not_read_blocks_only_its_writer(guest: Guest) -> None:
    stream = await guest.client.start_process(shell("sleep 60"), user="user", stdin=True)
    writer = asyncio.ensure_future(guest.client.send_input(stream.pid, b"x" * 1_000_000, pty=False))
    await asyncio.sleep(0.2)
    assert not writer.done()
    assert (await guest.run("echo works")).stdout == b"works\n"
    writer.cancel()
    await asyncio.wait([writer])
    # What the cancelled writer had not written is forgotten, so a second writer fares alike.
    second = asyncio.ensure_future(guest.client.send_input(stream.pid, b"y" * 10, pty=False))
    await asyncio.sleep(0.1)
    assert not second.done()
    await guest.client.signal(stream.pid, signal.SIGKILL)
    with pytest.raises(InvalidInput):
        await second
    await collect(stream)


async def test_input_to_a_process_that_closed_its_stdin(guest: Guest) -> None:
    stream = await guest.client.start_process(
        shell("exec <&-; echo closed; sleep 60"), user="user", stdin=True
    )
    await read_until(stream, b"closed")
    with pytest.raises(InvalidInput, match="takes no input"):
        await guest.client.send_input(stream.pid, b"x", pty=False)
    await guest.client.signal(stream.pid, signal.SIGKILL)
    await collect(stream)


# Terminals ---------------------------------------------------------------------------------------


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:  # It ended meanwhile.
        return ""


async def test_a_terminal(guest: Guest) -> None:
    config = ProcessConfig("/bin/sh", ("-i",), {"TERM": "xterm", "PS1": "$ "})
    stream = await guest.client.start_process(config, user="user", pty=PtySize(100, 30))
    client = guest.client
    await client.send_input(stream.pid, b"stty size; tty; ls -l $(tty); echo do''ne\n", pty=True)
    seen = await read_until(stream, b"done")
    assert b"30 100" in seen
    assert b"/dev/pts/" in seen
    assert b" user " in seen, "the terminal belongs to the user"
    await client.resize(stream.pid, PtySize(44, 11))
    await client.send_input(stream.pid, b"stty size\n", pty=True)
    assert b"11 44" in await read_until(stream, b"11 44")
    await client.send_input(stream.pid, b"cat; echo back\n", pty=True)
    # An interrupt that comes before there is a cat would leave the next line to the cat.
    (terminal,) = processes_below(guest.pid)
    await until(lambda: [name_of(pid) for pid in processes_below(terminal)] == ["cat"])
    await client.send_input(stream.pid, b"\x03", pty=True)
    # An interrupted shell throws away what it has read ahead.
    interrupted = await read_until(stream, b"^C")
    if b"$ " not in interrupted.partition(b"^C")[2]:
        await read_until(stream, b"$ ")
    await client.send_input(stream.pid, b"echo $((6*7))\n", pty=True)
    await read_until(stream, b"42")
    await client.send_input(stream.pid, b"exit 5\n", pty=True)
    assert (await collect(stream)).end.exit_code == 5


async def test_a_terminal_is_killed(guest: Guest) -> None:
    config = ProcessConfig("/bin/sh", ("-i",))
    stream = await guest.client.start_process(config, user="user", pty=PtySize(80, 24))
    await guest.client.send_input(stream.pid, b"sleep 1000\n", pty=True)
    await read_until(stream, b"sleep 1000")
    await guest.client.signal(stream.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        assert (await collect(stream)).end.status == "signal: killed"
    await until(lambda: processes_below(guest.pid) == [])


async def test_wrong_kind_of_input(guest: Guest) -> None:
    terminal = await guest.client.start_process(shell("sleep 60"), user="user", pty=PtySize(80, 24))
    plain = await guest.client.start_process(shell("sleep 60"), user="user", stdin=True)
    with pytest.raises(InvalidInput):
        await guest.client.send_input(terminal.pid, b"x", pty=False)
    with pytest.raises(InvalidInput, match="Ctrl-D"):
        await guest.client.close_stdin(terminal.pid)
    with pytest.raises(InvalidInput, match="no terminal"):
        await guest.client.send_input(plain.pid, b"x", pty=True)
    with pytest.raises(InvalidInput, match="no terminal"):
        await guest.client.resize(plain.pid, PtySize(1, 1))
    with pytest.raises(InvalidInput, match="cols"):
        await guest.client.resize(terminal.pid, PtySize(70000, 1))
    with pytest.raises(ProcessNotFound):
        await guest.client.resize(999999, PtySize(1, 1))
    for stream in (terminal, plain):
        await guest.client.signal(stream.pid, signal.SIGKILL)
        await collect(stream)


async def test_hundreds_of_clients_at_once(guest: Guest) -> None:
    async def one(number: int) -> None:
        client = AgentClient(guest.dial)
        try:
            stream = await client.start_process(shell(f"echo {number}; sleep 0.2"), user="user")
            assert (await collect(stream)).stdout == f"{number}\n".encode()
        finally:
            await client.close()

    await asyncio.gather(*(one(number) for number in range(200)))
    assert await guest.client.list_processes() == []
