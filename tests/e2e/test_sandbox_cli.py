"""`atoll sandbox …`, in pipes and in a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest
from e2b import NotFoundException, Sandbox

from atoll.cli import api
from atoll.cli.sandbox.escape import Escape
from atoll.errors import Exhausted
from tests.server import RunningServer, run_server

ATOLL = [sys.executable, "-m", "atoll"]


class Cli:
    """The command line, pointed at the server by its environment as a user's shell would."""

    def __init__(self, server: RunningServer) -> None:
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ATOLL_")},
            "E2B_API_URL": server.url,
            "E2B_API_KEY": server.api_key,
            "TERM": "xterm",
        }

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run `atoll sandbox …` to its end."""
        options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
        if options["stdin"] is None:
            del options["stdin"]
        command = [*ATOLL, "sandbox", *arguments]
        return subprocess.run(
            command, capture_output=True, env=self.environ, timeout=60, check=False, **options
        )

    def json(self, *arguments: str) -> Any:
        """Run it with --json."""
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def spawn(self, *arguments: str, size: tuple[int, int] = (24, 80)) -> pexpect.spawn[bytes]:
        """Run it in a pseudo-terminal, below a shell that shows how it leaves it."""
        inner = " ".join([*ATOLL, "sandbox", *arguments])
        script = f"stty -a > $BEFORE; {inner}; echo left:$?; stty -a > $AFTER; echo over"
        return pexpect.spawn(
            "/bin/bash", ["-c", script], env=self.environ, dimensions=size, timeout=60
        )


@pytest.fixture
def cli(server: RunningServer, tmp_path: Path) -> Cli:
    made = Cli(server)
    made.environ |= {"BEFORE": str(tmp_path / "before"), "AFTER": str(tmp_path / "after")}
    return made


@pytest.fixture
def sandbox_id(sandbox: Sandbox) -> str:
    return sandbox.sandbox_id


def assert_restored(cli: Cli, terminal: pexpect.spawn[bytes]) -> None:
    """The terminal is as it was."""
    terminal.expect("over")
    terminal.expect(pexpect.EOF)
    before, after = (Path(cli.environ[name]).read_text() for name in ("BEFORE", "AFTER"))
    # The size may have changed: that is the first line.
    assert before.partition("\n")[2] == after.partition("\n")[2]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_create_list_info_kill(cli: Cli) -> None:
    made = cli("create", "--detach", "--timeout", "60", "-m", "job=cli", "-m", "n=1")
    sandbox_id = made.stdout.decode().strip()
    other = cli.json("create", "--timeout", "60", "-m", "job=other")["sandboxID"]
    listed = cli.json("list", "-m", "job=cli", "-m", "n=1")
    assert [each["sandboxID"] for each in listed] == [sandbox_id]
    assert {sandbox_id, other} <= {each["sandboxID"] for each in cli.json("list", "-o", "asc")}
    assert len(cli.json("list", "--limit", "1")) == 1
    assert cli.json("list", "--template", "no-such") == []
    table = cli("list").stdout.decode()
    assert sandbox_id in table
    assert "job=cli n=1" in table
    shown = cli.json("info", sandbox_id)
    assert (shown["state"], shown["metadata"]) == ("running", {"job": "cli", "n": "1"})
    assert sandbox_id in cli("info", sandbox_id).stdout.decode()
    assert cli.json("kill", "--all", "-m", "job=cli") == {"killed": [sandbox_id], "missing": []}
    killed = cli("kill", other, "nope")
    assert killed.returncode == 1
    assert killed.stdout.decode() == f"killed {other}\n"
    assert b"there is no sandbox nope" in killed.stderr
    gone = cli("info", sandbox_id)
    assert gone.returncode == 1
    assert b"was not found" in gone.stderr


def test_exec_passes_everything_through(cli: Cli, sandbox_id: str) -> None:
    done = cli("exec", "-u", "root", "-e", "A=b c", "-c", "/tmp", sandbox_id, 'echo "$A" $PWD; id')
    assert done.stdout.decode().startswith("b c /tmp\nuid=0(root)")
    done = cli("exec", sandbox_id, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)
    done = cli("exec", sandbox_id, "--", "printf", "%s|", "a b", "$HOME", "--json", "-x")
    assert done.stdout == b"a b|$HOME|--json|-x|", "several arguments are a program's own"
    told = cli("exec", "--json", sandbox_id, "echo out; echo err >&2; exit 7")
    assert told.returncode == 7
    assert json.loads(told.stdout) == {"exitCode": 7, "stdout": "out\n", "stderr": "err\n"}
    assert cli("exec", "nope", "true").returncode == 1


def test_exec_takes_input_as_it_is(cli: Cli, sandbox_id: str, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    assert cli("exec", sandbox_id, "cat", input=data).stdout == data
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file:
        assert cli("exec", sandbox_id, "wc", "-c", stdin=file).stdout == b"1048576\n"
    # A program that does not read its input is not waited for.
    assert cli("exec", sandbox_id, "exit 5", input=data).returncode == 5


def test_exec_in_the_background(cli: Cli, sandbox: Sandbox) -> None:
    pid = int(cli("exec", "--background", sandbox.sandbox_id, "sleep 4444").stdout)
    assert pid in [each.pid for each in sandbox.commands.list()]
    assert sandbox.commands.kill(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_exec_takes_its_program_along(
    cli: Cli, sandbox: Sandbox, number: signal.Signals
) -> None:
    command = [*ATOLL, "sandbox", "exec", sandbox.sandbox_id, "echo begun; sleep 4321"]
    with subprocess.Popen(command, env=cli.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert sandbox.commands.list() == []


def test_a_closed_pipe_ends_exec(cli: Cli, sandbox: Sandbox) -> None:
    command = [*ATOLL, "sandbox", "exec", sandbox.sandbox_id, "yes"]
    with subprocess.Popen(command, env=cli.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(30) == 141
    assert sandbox.commands.list() == []


def test_a_terminal_in_a_running_sandbox(cli: Cli, sandbox: Sandbox) -> None:
    terminal = cli.spawn("connect", "-c", "/tmp", "-e", "A=seen", sandbox.sandbox_id, size=(30, 90))
    terminal.expect_exact("$ ")
    terminal.sendline("stty size; echo $A:$PWD:$TERM")
    terminal.expect_exact("30 90")
    terminal.expect_exact("seen:/tmp:xterm")
    terminal.setwinsize(40, 100)
    wait_until(lambda: not terminal.sendline("stty size") or _saw(terminal, "40 100"))
    terminal.sendline("sleep 1000")
    wait_until(lambda: "sleep 1000" in sandbox.commands.run("ps -ef").stdout)
    terminal.sendcontrol("c")
    terminal.sendline("echo interrupted: $?")
    terminal.expect_exact("interrupted: 130")
    terminal.sendline("exit 3")
    terminal.expect_exact("left:3")
    assert_restored(cli, terminal)
    assert sandbox.is_running()


def _saw(terminal: pexpect.spawn[bytes], text: str) -> bool:
    return terminal.expect_exact([text, pexpect.TIMEOUT], timeout=1) == 0


def test_a_terminal_is_left_by_the_escape(cli: Cli, sandbox: Sandbox) -> None:
    terminal = cli.spawn("connect", sandbox.sandbox_id)
    terminal.expect_exact("$ ")
    terminal.sendline("vim")
    terminal.expect_exact("VIM - Vi IMproved")
    terminal.send("\r~.")
    terminal.expect_exact("left:0")
    assert_restored(cli, terminal)
    assert "vim" in sandbox.commands.run("ps -e").stdout, "the program goes on"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_is_put_back_when_the_command_is_killed(
    cli: Cli, sandbox: Sandbox, number: signal.Signals
) -> None:
    terminal = cli.spawn("connect", sandbox.sandbox_id)
    terminal.expect_exact("$ ")
    (child,) = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
    os.kill(int(child), number)
    terminal.expect_exact(f"left:{128 + number}")
    assert_restored(cli, terminal)


def test_a_terminal_is_put_back_when_the_sandbox_ends(cli: Cli, sandbox: Sandbox) -> None:
    terminal = cli.spawn("connect", sandbox.sandbox_id)
    terminal.expect_exact("$ ")
    sandbox.kill()
    terminal.expect_exact("atoll: ")
    terminal.expect_exact("left:1")
    assert_restored(cli, terminal)


def test_a_sandbox_that_ends_is_told_of_as_such(cli: Cli, sandbox: Sandbox) -> None:
    terminal = cli.spawn("connect", sandbox.sandbox_id)
    terminal.expect_exact("$ ")
    with subprocess.Popen(
        [*ATOLL, "sandbox", "exec", sandbox.sandbox_id, "echo up; sleep 60"],
        env=cli.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        sandbox.kill()
        said = process.stderr.read().decode().splitlines()
        assert process.wait(20) == 1
    assert said[0] == f"atoll: sandbox {sandbox.sandbox_id} has ended"
    assert said[1].startswith("FIX: ")
    terminal.expect_exact(f"atoll: sandbox {sandbox.sandbox_id} has ended")
    terminal.expect_exact("FIX: ")
    terminal.expect_exact("left:1")
    terminal.expect(pexpect.EOF)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_is_told_of_as_such(tmp_path: Path, how: signal.Signals) -> None:
    with run_server(tmp_path, pool_size=0) as server:
        cli = Cli(server)
        sandbox_id = cli.json("create", "--timeout", "60")["sandboxID"]
        command = [*ATOLL, "sandbox", "exec", sandbox_id, "echo up; sleep 60"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(
            command, env=cli.environ, stdin=subprocess.DEVNULL, **pipes
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"up\n"
            server.process.send_signal(how)
            said = process.stderr.read().decode()
            assert process.wait(20) == 1
        server.process.wait(20)
        assert said.startswith(f"atoll: the server is gone: {server.url}")
        assert "\nFIX: " in said
        clean(server)


def clean(server: RunningServer) -> None:
    assert server.atoll("clean").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["create", "nope", "-d"], "nope"),
        (["create", "-d", "--timeout", "9999999"], "timeout"),
        (["create", "-d", "--lifecycle.ontimeout", "pause"], "pause sandboxes"),
        (["info", "nosuch"], "nosuch"),
        (["kill", "nosuch"], "nosuch"),
        (["exec", "-u", "bob", "SANDBOX", "id"], "bob"),
        (["exec", "-c", "/nowhere", "SANDBOX", "id"], "/nowhere"),
    ],
)
def test_what_fails_says_what_to_do(
    cli: Cli, sandbox_id: str, arguments: list[str], word: str
) -> None:
    told = cli(*(sandbox_id if each == "SANDBOX" else each for each in arguments))
    assert told.returncode == 1
    said = told.stderr.decode()
    assert word in said
    assert "\nFIX: " in said
    assert "autoPause" not in said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["list", "--state", "bogus"], "bogus"),
        (["list", "--started-after", "yesterday"], "yesterday"),
        (["kill", "--all", "--state", "bogus"], "bogus"),
        (["create", "-d", "--metadata", "x"], "KEY=VALUE"),
        (["create", "-d", "--lifecycle.autoresume"], "autoresume"),
    ],
)
def test_a_bad_option_ends_with_status_2(cli: Cli, arguments: list[str], word: str) -> None:
    told = cli(*arguments)
    assert told.returncode == 2
    assert word in told.stderr.decode()


def test_a_server_that_has_had_enough() -> None:
    error = api._read_error(429, {"code": 429, "message": "too many"})
    assert (type(error), error.message) == (Exhausted, "too many")
    assert error.remedy


def test_a_sandbox_of_the_terminals_own(cli: Cli, server: RunningServer) -> None:
    terminal = cli.spawn("create")
    terminal.expect(rb"sandbox (\w+);")
    sandbox_id = terminal.match.group(1).decode()  # type: ignore[union-attr]
    terminal.expect_exact("$ ")
    terminal.sendline("exit")
    terminal.expect_exact("left:0")
    assert_restored(cli, terminal)
    with pytest.raises(NotFoundException):
        Sandbox.get_info(sandbox_id, **server.options)


def test_exec_with_a_terminal(cli: Cli, sandbox_id: str) -> None:
    terminal = cli.spawn("exec", "-t", sandbox_id, "'stty size; exit 6'")
    terminal.expect_exact("24 80")
    terminal.expect_exact("left:6")
    assert_restored(cli, terminal)


def test_without_a_terminal_it_says_what_to_do(cli: Cli, sandbox_id: str) -> None:
    for arguments in (["create"], ["connect", sandbox_id]):
        told = cli(*arguments)
        assert told.returncode == 1
        assert b"FIX: " in told.stderr


def test_logs(cli: Cli, sandbox: Sandbox) -> None:
    sandbox.commands.run("echo a needle")
    entries = [
        json.loads(line) for line in cli("logs", "--json", sandbox.sandbox_id).stdout.splitlines()
    ]
    assert any("needle" in each["fields"].get("command", "") for each in entries)
    assert len({json.dumps(each) for each in entries}) == len(entries)
    assert cli("logs", "--level", "error", sandbox.sandbox_id).stdout == b""
    command = [*ATOLL, "sandbox", "logs", "--follow", sandbox.sandbox_id]
    with subprocess.Popen(command, env=cli.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"created" in process.stdout.readline()
        sandbox.kill()
        rest = process.stdout.read()
        assert process.wait(30) == 0
    assert b"killed" in rest, "it goes on until the end, and that included"


def test_metrics(cli: Cli, sandbox_id: str) -> None:
    wait_until(lambda: cli("metrics", "--json", sandbox_id).stdout)
    sample = json.loads(cli("metrics", "--json", sandbox_id).stdout.splitlines()[0])
    assert sample["memTotal"] > sample["memUsed"] > 0
    assert b" MiB" in cli("metrics", sandbox_id).stdout


def test_which_server(cli: Cli, server: RunningServer, tmp_path: Path) -> None:
    here = ["--data-dir", str(server.data_dir)]
    del cli.environ["E2B_API_URL"], cli.environ["E2B_API_KEY"]
    assert cli("list", *here).returncode == 0
    told = cli("list", "--data-dir", str(tmp_path))
    assert b"no server runs on" in told.stderr
    assert b"FIX: " in told.stderr
    told = cli("list", "--api-url", server.url)
    assert b"there is no key" in told.stderr
    told = cli("list", "--api-url", server.url, "--api-key", "e2b_" + "0" * 40)
    assert told.returncode == 1
    assert b"FIX: " in told.stderr
    told = cli("list", "--api-url", "http://127.0.0.1:1", "--api-key", "x")
    assert b"does not answer" in told.stderr


def test_bash_completes_commands_and_ids(cli: Cli, sandbox_id: str) -> None:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        environ = {
            **cli.environ,
            "_ATOLL_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        command = [sys.executable, "-c", "import sys; sys.argv[0] = 'atoll'; from atoll.cli "]
        command[-1] += "import main; main()"
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
        return done.stdout.split()

    assert {"sandbox", "serve"} <= set(complete("atoll s"))
    assert "connect" in complete("atoll sandbox co")
    assert complete(f"atoll sandbox kill {sandbox_id[:6]}") == [sandbox_id]
    assert sandbox_id in complete("atoll sandbox exec ")
    # Without a server it is silent.
    cli.environ["E2B_API_URL"] = "http://127.0.0.1:1"
    assert complete("atoll sandbox info ") == []


def test_escape() -> None:
    assert Escape().filter(b"a~.b") == (b"a~.b", False)
    assert Escape().filter(b"~.") == (b"", True)
    assert Escape().filter(b"x\r~.y") == (b"x\r", True)
    assert Escape().filter(b"~~.") == (b"~.", False)
    assert Escape().filter(b"~x") == (b"~x", False)
    escape = Escape()
    assert [escape.filter(each) for each in (b"ls\n", b"~", b".")] == [
        (b"ls\n", False),
        (b"", False),
        (b"", True),
    ]
