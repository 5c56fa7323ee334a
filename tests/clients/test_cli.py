"""The official command line, `@e2b/cli`: as a program, and in a real terminal."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from e2b import CommandExitException, Sandbox

from tests.clients.conftest import BIN, HERE
from tests.server import RunningServer

MAIN = HERE / "node_modules" / "@e2b" / "cli" / "dist" / "index.js"
ESCAPES = re.compile(r"\x1b\][^\x07]*\x07|\x1b\[[0-9;?]*[A-Za-z]")


class CommandLine:
    """`e2b …` with the environment of a test."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = {**environ, "TERM": "xterm", "COLUMNS": "200", "CLI_WIDTH": "200"}

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        if "input" in options:
            del options["stdin"]
        return subprocess.run(
            [BIN / "node", MAIN, *arguments],
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=60,
            **options,
        )

    def told(self, *arguments: str, **options: Any) -> str:
        """What a command prints when it works, without colours."""
        done = self(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return ESCAPES.sub("", done.stdout)

    def in_terminal(self, *arguments: str) -> pexpect.spawn[str]:
        """The command in a pseudo-terminal of 40 lines and 132 columns."""
        return pexpect.spawn(
            str(BIN / "node"),
            [str(MAIN), *arguments],
            env=self.environ,
            dimensions=(40, 132),
            encoding="utf-8",
            timeout=30,
        )


@pytest.fixture
def e2b(environ: dict[str, str]) -> CommandLine:
    return CommandLine(environ)


@pytest.fixture
def sandbox(server: RunningServer) -> Iterator[Sandbox]:
    with Sandbox.create(timeout=120, metadata={"suite": "cli"}, **server.options) as made:
        yield made


def test_create_and_kill(e2b: CommandLine, server: RunningServer) -> None:
    sandbox_id = e2b.told("sandbox", "create", "base", "--detach", "--timeout", "600").strip()
    info = Sandbox.get_info(sandbox_id, **server.options)
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(600, abs=1)
    assert "has been killed" in e2b.told("sandbox", "kill", sandbox_id)
    assert "wasn't found" in e2b("sandbox", "kill", sandbox_id).stderr


def test_kill_all_that_match(e2b: CommandLine, server: RunningServer, sandbox: Sandbox) -> None:
    mark = f"kill-{time.time_ns()}"
    made = [Sandbox.create(metadata={"mark": mark}, **server.options) for _ in range(2)]
    told = e2b.told("sandbox", "kill", "--all", "--metadata", f"mark={mark}")
    assert "Killed 2 running sandboxes" in told
    assert not any(each.is_running() for each in made)
    assert sandbox.is_running()


def test_list(e2b: CommandLine, sandbox: Sandbox) -> None:
    listed = json.loads(e2b.told("sandbox", "list", "--format", "json"))
    (mine,) = [each for each in listed if each["sandboxId"] == sandbox.sandbox_id]
    assert mine["state"] == "running"
    assert mine["metadata"] == {"suite": "cli"}
    table = e2b.told("sandbox", "list", "--metadata", "suite=cli", "--template", "base")
    assert sandbox.sandbox_id in table
    for option in (("--state", "paused"), ("--metadata", "suite=other"), ("--template", "x")):
        assert "No sandboxes found" in e2b.told("sandbox", "list", *option)


def test_info(e2b: CommandLine, sandbox: Sandbox) -> None:
    info = json.loads(e2b.told("sandbox", "info", sandbox.sandbox_id, "--format", "json"))
    assert info["sandboxId"] == sandbox.sandbox_id
    assert info["envdVersion"] == "0.6.7"
    assert f"Sandbox ID: {sandbox.sandbox_id}" in e2b.told("sandbox", "info", sandbox.sandbox_id)
    missing = e2b("sandbox", "info", "a" * 20)
    assert missing.returncode == 1
    assert "wasn't found" in missing.stderr


def test_exec(e2b: CommandLine, sandbox: Sandbox) -> None:
    run = ("sandbox", "exec")
    done = e2b(*run, sandbox.sandbox_id, "sh", "-c", "echo out; echo err >&2; exit 4")
    assert done.returncode == 4
    assert done.stdout == "out\n"
    assert "err" in done.stderr
    options = ("--user", "root", "--cwd", "/tmp", "--env", "A=b c")
    told = e2b.told(*run, *options, sandbox.sandbox_id, "sh", "-c", "whoami; pwd; echo $A")
    assert told == "root\n/tmp\nb c\n"
    assert e2b.told(*run, sandbox.sandbox_id, "cat", input="piped €\n") == "piped €\n"


def test_by_domain_alone(secure_environ: dict[str, str]) -> None:
    e2b = CommandLine(secure_environ)
    sandbox_id = e2b.told("sandbox", "create", "--detach").strip()
    assert e2b.told("sandbox", "exec", sandbox_id, "cat", input="over TLS\n") == "over TLS\n"
    terminal = e2b.in_terminal("sandbox", "connect", sandbox_id)
    terminal.expect_exact("$ ")
    terminal.sendline("echo $((6 * 7)); exit")
    terminal.expect_exact("42")
    terminal.expect(pexpect.EOF)
    assert "has been killed" in e2b.told("sandbox", "kill", sandbox_id)


def test_exec_in_the_background(e2b: CommandLine, sandbox: Sandbox) -> None:
    done = e2b("sandbox", "exec", "--background", sandbox.sandbox_id, "sleep", "60")
    assert done.returncode == 0
    assert int(done.stderr) in {each.pid for each in sandbox.commands.list()}


def test_an_interrupted_exec_ends_its_command(e2b: CommandLine, sandbox: Sandbox) -> None:
    command = ("sh", "-c", "echo started; exec sleep 4711")
    terminal = e2b.in_terminal("sandbox", "exec", sandbox.sandbox_id, *command)
    terminal.expect_exact("started")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus != 0
    with pytest.raises(CommandExitException):
        sandbox.commands.run("pgrep -x -f 'sleep 4711'")


def test_connect_in_a_terminal(e2b: CommandLine, sandbox: Sandbox) -> None:
    arguments = ("--cwd", "/tmp", "--env", "A=b", sandbox.sandbox_id)
    terminal = e2b.in_terminal("sandbox", "connect", *arguments)
    terminal.expect_exact("Terminal connecting to sandbox")
    terminal.expect_exact("$ ")
    terminal.sendline("stty size; echo $A $PWD $((6 * 7))")
    terminal.expect_exact("40 132")
    terminal.expect_exact("b /tmp 42")
    terminal.setwinsize(50, 100)
    # The size travels on its own way; ask until it has arrived.
    terminal.sendline(
        'until [ "$(stty size)" = "50 100" ]; do sleep 0.1; done; echo "now $(stty size)"'
    )
    terminal.expect_exact("now 50 100")
    terminal.sendline("cat")
    terminal.sendline("typed")
    terminal.expect(r"typed\s+typed")
    terminal.sendintr()
    terminal.expect_exact("^C")
    terminal.sendline("exit 0")
    terminal.expect_exact("Closing terminal connection to sandbox")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert sandbox.is_running()


def test_create_in_a_terminal(e2b: CommandLine, server: RunningServer) -> None:
    terminal = e2b.in_terminal("sandbox", "create")
    terminal.expect(r"with sandbox ID (?:\x1b\[\d+m)*([a-z0-9]{20})")
    assert isinstance(terminal.match, re.Match)
    sandbox_id = terminal.match[1]
    terminal.expect_exact("$ ")
    terminal.sendline('echo "I am $E2B_SANDBOX_ID"')
    terminal.expect_exact(f"I am {sandbox_id}")
    terminal.sendline("exit")
    terminal.expect_exact("Closing terminal connection to template")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    # Leaving gives the sandbox one more second.
    deadline = time.monotonic() + 15
    while sandbox_id in {each.sandbox_id for each in Sandbox.list(**server.options).next_items()}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_logs(e2b: CommandLine, sandbox: Sandbox) -> None:
    sandbox.commands.run("echo a line for the log")
    deadline = time.monotonic() + 15
    arguments = ("sandbox", "logs", sandbox.sandbox_id, "--level", "DEBUG", "--format", "json")
    while not (told := e2b.told(*arguments)).strip():
        assert time.monotonic() < deadline
    for line in filter(None, told.splitlines()):
        assert {"timestamp", "level", "message"} <= json.loads(line).keys()
    assert "Logs for sandbox" in e2b.told("sandbox", "logs", sandbox.sandbox_id)


def test_logs_follow_until_the_end(e2b: CommandLine, sandbox: Sandbox) -> None:
    terminal = e2b.in_terminal("sandbox", "logs", "--follow", sandbox.sandbox_id)
    terminal.expect_exact("Logs for sandbox")
    sandbox.kill()
    terminal.expect_exact("Stopped printing logs")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_metrics(e2b: CommandLine, sandbox: Sandbox) -> None:
    deadline = time.monotonic() + 20
    arguments = ("sandbox", "metrics", sandbox.sandbox_id)
    while not (told := e2b.told(*arguments, "--format", "json")).strip():
        assert time.monotonic() < deadline
    first = json.loads(told.split("\n")[1])
    assert first["cpuCount"] == sandbox.get_info().cpu_count
    assert 0 < first["memUsed"] <= first["memTotal"]
    assert "Memory" in e2b.told(*arguments)


def test_a_wrong_key(environ: dict[str, str]) -> None:
    e2b = CommandLine({**environ, "E2B_API_KEY": "e2b_" + "0" * 40})
    done = e2b("sandbox", "list")
    assert done.returncode == 1
    assert "AuthenticationError" in done.stderr


def test_no_key(environ: dict[str, str]) -> None:
    del environ["E2B_API_KEY"]
    done = CommandLine(environ)("sandbox", "list")
    assert done.returncode == 1
    assert "You must be logged in" in done.stderr


def log_in(home: Path, server: RunningServer) -> None:
    """What `e2b auth login` writes after its visit to a browser."""
    config = {
        "version": 2,
        "identity": {"email": "ann@example.com"},
        "oauth": {"token_endpoint": "", "revoke_endpoint": "", "client_id": ""},
        "tokens": {"access_token": "", "refresh_token": ""},
        "last_refresh": "2026-01-01T00:00:00Z",
        "projectName": "default",
        "projectId": "default",
        "projectApiKey": server.api_key,
    }
    (home / ".e2b").mkdir()
    (home / ".e2b" / "config.json").write_text(json.dumps(config))


def test_auth_info(e2b: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    assert "Not logged in" in e2b("auth", "info").stdout
    log_in(tmp_path, server)
    told = e2b.told("auth", "info")
    assert "ann@example.com" in told
    assert "default" in told


def test_auth_logout(e2b: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    assert "Not logged in" in e2b.told("auth", "logout")
    log_in(tmp_path, server)
    assert "Logged out" in e2b.told("auth", "logout")
    assert not (tmp_path / ".e2b" / "config.json").exists()


def test_the_key_of_a_login(
    environ: dict[str, str], server: RunningServer, sandbox: Sandbox, tmp_path: Path
) -> None:
    del environ["E2B_API_KEY"]
    log_in(tmp_path, server)
    assert sandbox.sandbox_id in CommandLine(environ).told("sandbox", "list")
