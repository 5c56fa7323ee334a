"""`sandbox.commands` and `sandbox.pty`, through the official SDK."""

from __future__ import annotations

import threading
import time

import pytest
from e2b import AsyncSandbox, CommandExitException, PtySize, Sandbox
from e2b.exceptions import (
    AuthenticationException,
    InvalidArgumentException,
    SandboxException,
    TimeoutException,
)

from tests.server import RunningServer


def test_run(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_a_failing_command_raises_with_its_output(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("echo before; exit 3")
    assert caught.value.exit_code == 3
    assert caught.value.stdout == "before\n"


def test_output_arrives_while_the_command_runs(sandbox: Sandbox) -> None:
    arrived: list[float] = []
    sandbox.commands.run(
        "for i in 1 2 3; do echo $i; sleep 0.3; done",
        on_stdout=lambda _: arrived.append(time.monotonic()),
    )
    assert len(arrived) == 3
    assert arrived[2] - arrived[0] > 0.4


def test_bytes_split_within_a_character(sandbox: Sandbox) -> None:
    program = r"import sys; sys.stdout.buffer.write(b'a'*8191 + b'\xe2\x82\xac' + b'\xe2')"
    result = sandbox.commands.run(f'python3 -c "{program}"')
    assert result.stdout == "a" * 8191 + "€" + "\N{REPLACEMENT CHARACTER}"


def test_large_output_is_complete(sandbox: Sandbox) -> None:
    result = sandbox.commands.run("seq 1 300000")
    assert result.stdout == "".join(f"{n}\n" for n in range(1, 300001))


def test_who_and_where(sandbox: Sandbox) -> None:
    run = sandbox.commands.run
    assert run("whoami; pwd; echo $HOME").stdout == "user\n/home/user\n/home/user\n"
    assert run("whoami; pwd", user="root").stdout == "root\n/root\n"
    assert run("pwd", cwd="/tmp").stdout == "/tmp\n"
    assert run("sudo whoami").stdout == "root\n"
    assert run("id -u; id -g; groups").stdout.startswith("1000\n1000\n")


def test_an_unknown_user_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        sandbox.commands.run("true", user="nobody-here")


def test_a_missing_directory_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentException, match="/no/such/dir"):
        sandbox.commands.run("true", cwd="/no/such/dir")


def test_background_stdin_and_list(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    listed = {each.pid: each for each in sandbox.commands.list()}
    assert listed[handle.pid].cmd == "/bin/bash"
    assert listed[handle.pid].args == ["-l", "-c", "cat"]
    sandbox.commands.send_stdin(handle.pid, "first ")
    sandbox.commands.send_stdin(handle.pid, "second")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "first second"
    assert handle.pid not in {each.pid for each in sandbox.commands.list()}


def test_kill(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 100; echo never", background=True)
    assert sandbox.commands.kill(handle.pid) is True
    with pytest.raises(CommandExitException) as caught:
        handle.wait()
    assert caught.value.exit_code != 0
    assert sandbox.commands.kill(handle.pid) is False
    assert sandbox.commands.kill(999999) is False


def test_a_process_outlives_its_client_and_is_reached_again(
    server: RunningServer, sandbox: Sandbox
) -> None:
    handle = sandbox.commands.run(
        "for i in $(seq 1 40); do echo $i; sleep 0.05; done", background=True
    )
    handle.disconnect()
    time.sleep(0.3)
    other = Sandbox.connect(sandbox.sandbox_id, **server.options)
    again = other.commands.connect(handle.pid)
    result = again.wait()
    lines = result.stdout.split()
    assert lines[-1] == "40"
    # Nothing of what was said while nobody listened is lost.
    assert lines == [str(n) for n in range(int(lines[0]), 41)]


def test_two_clients_on_one_process(server: RunningServer, sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("read line; seq 1 1000", background=True, stdin=True)
    other = Sandbox.connect(sandbox.sandbox_id, **server.options)
    second = other.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "go\n")
    expected = "".join(f"{n}\n" for n in range(1, 1001))
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(second.wait().stdout))
    thread.start()
    assert handle.wait().stdout == expected
    thread.join()
    assert results == [expected]


def test_connect_to_nothing(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxException, match="999999"):
        sandbox.commands.connect(999999)


@pytest.mark.parametrize("background", [False, True])
def test_the_clients_timeout_ends_the_wait_and_the_process(
    sandbox: Sandbox, background: bool
) -> None:
    began = time.monotonic()
    command = "echo $$ > /tmp/pid; sleep 60 & while :; do sleep 0.1; done"

    def run() -> None:
        if background:
            sandbox.commands.run(command, background=True, timeout=1).wait()
        else:
            sandbox.commands.run(command, timeout=1)

    with pytest.raises(TimeoutException):
        run()
    assert time.monotonic() - began < 3
    gone = "while kill -0 $(cat /tmp/pid) || pgrep -x sleep; do sleep 0.1; done"
    sandbox.commands.run(gone, timeout=10)


def test_a_client_that_leaves_takes_the_time_limit_with_nobody(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("exec sleep 60", background=True, timeout=2)
    handle.disconnect()
    assert sandbox.commands.run(f"kill -0 {handle.pid}").exit_code == 0
    ended = f"while kill -0 {handle.pid}; do sleep 0.1; done"
    sandbox.commands.run(ended, timeout=10)


def test_without_a_timeout_a_process_runs_on(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("exec sleep 60", background=True, timeout=0)
    other = sandbox.commands.connect(handle.pid, timeout=1)
    with pytest.raises(TimeoutException):
        other.wait()
    assert sandbox.commands.run(f"kill -0 {handle.pid}").exit_code == 0
    handle.kill()


def test_killing_the_sandbox_ends_a_running_command(server: RunningServer) -> None:
    sandbox = Sandbox.create(**server.options)
    handle = sandbox.commands.run("sleep 60", background=True)
    threading.Timer(0.5, sandbox.kill).start()
    began = time.monotonic()
    with pytest.raises(TimeoutException, match="killed or reached its end of life"):
        handle.wait()
    assert time.monotonic() - began < 5


def test_pty(sandbox: Sandbox) -> None:
    output = bytearray()
    terminal = sandbox.pty.create(PtySize(rows=33, cols=101))
    reader = threading.Thread(target=lambda: terminal.wait(on_pty=output.extend), daemon=True)
    reader.start()
    sandbox.pty.send_stdin(terminal.pid, b"stty size\n")
    wait_until(lambda: b"33 101" in output)
    sandbox.pty.resize(terminal.pid, PtySize(rows=44, cols=120))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; tput cols; exit 0\n")
    wait_until(lambda: b"44 120" in output)
    reader.join(timeout=10)
    assert not reader.is_alive()


def wait_until(condition: object, seconds: float = 10) -> None:
    """Wait for a condition; fail loudly when it does not come."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


async def test_the_async_sdk(server: RunningServer) -> None:
    sandbox = await AsyncSandbox.create(timeout=60, **server.options)
    try:
        result = await sandbox.commands.run("echo async")
        assert result.stdout == "async\n"
        await sandbox.files.write("a.txt", "text")
        assert await sandbox.files.read("a.txt") == "text"
    finally:
        assert await sandbox.kill()


def test_stdin_through_the_handle(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    handle.send_stdin("typed")
    handle.close_stdin()
    assert handle.wait().stdout == "typed"


def test_kill_through_the_handle(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 100", background=True)
    assert handle.kill() is True
    with pytest.raises(CommandExitException):
        handle.wait()
    assert handle.kill() is False


def test_streamed_input_keeps_its_order(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (f"{n}\n" for n in range(200)))
    handle.close_stdin()
    assert handle.wait().stdout == "".join(f"{n}\n" for n in range(200))
