"""What a program in a sandbox is told: variables, files, user and directory."""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from e2b import PtySize, Sandbox
from e2b.exceptions import AuthenticationException

from tests.server import RunningServer
from tests.unit.doors.test_wire import envelope, read_envelopes

Rpc = Callable[[str, Any, dict[str, str]], AbstractContextManager[httpx.Response]]

_NAMES = ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID", "GREETING", "EMPTY", "ODD")
_ODD = "a'b\"c $HOME `x` \\n ü\nsecond line"


@pytest.fixture(scope="module")
def box(server: RunningServer) -> Iterator[Sandbox]:
    envs = {"GREETING": "hi there", "EMPTY": "", "ODD": _ODD}
    with Sandbox.create(timeout=300, envs=envs, **server.options) as made:
        yield made


@pytest.fixture
def rpc(server: RunningServer, box: Sandbox) -> Rpc:
    """Call a streaming method of the process service, as the SDK's transport does."""

    def call(
        method: str, message: Any, extra: dict[str, str]
    ) -> AbstractContextManager[httpx.Response]:
        headers = {
            "X-Access-Token": box._envd_access_token or "",
            "E2b-Sandbox-Id": box.sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            **extra,
        }
        url = f"{server.url}/process.Process/{method}"
        return httpx.stream("POST", url, headers=headers, content=envelope(message), timeout=30)

    return call


def expected(box: Sandbox) -> dict[str, str]:
    return {
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": box.sandbox_id,
        "E2B_TEMPLATE_ID": box.get_info().template_id,
        "GREETING": "hi there",
        "EMPTY": "",
        "ODD": _ODD,
    }


def run(box: Sandbox, command: str, *, user: str | None = None, cwd: str | None = None) -> str:
    return box.commands.run(command, user=user, cwd=cwd).stdout


def show(*names: str) -> str:
    """A command that prints these variables as JSON, those that are not set left out."""
    program = (
        "import json, os, sys; "
        "print(json.dumps({n: os.environ[n] for n in sys.argv[1:] if n in os.environ}))"
    )
    return f"python3 -c {shlex.quote(program)} {' '.join(names)}"


def test_every_command_has_them(box: Sandbox) -> None:
    assert json.loads(run(box, show(*_NAMES))) == expected(box)
    assert json.loads(run(box, show(*_NAMES), user="root")) == expected(box)
    # Shells of its own, and background processes.
    assert json.loads(run(box, f"sh -c {shlex.quote(show(*_NAMES))}")) == expected(box)
    handle = box.commands.run(show(*_NAMES), background=True)
    assert json.loads(handle.wait().stdout) == expected(box)


def test_a_program_that_is_started_without_a_shell_has_them(box: Sandbox, rpc: Rpc) -> None:
    command = {"process": {"cmd": "/usr/bin/env", "args": ["-0"]}, "stdin": False}
    with rpc("Start", command, {}) as answer:
        events = read_envelopes(answer.read())
    pieces = [message["event"].get("data", {}).get("stdout", "") for _, message in events[:-1]]
    output = b"".join(map(base64.b64decode, pieces)).decode()
    found = dict(each.split("=", 1) for each in output.split("\0") if each)
    assert {name: found.get(name) for name in _NAMES} == expected(box)
    assert (found["HOME"], found["USER"]) == ("/home/user", "user")
    assert found["PATH"]


def test_a_terminal_has_them(box: Sandbox) -> None:
    seen = bytearray()
    handle = box.pty.create(PtySize(rows=24, cols=200))
    box.pty.send_stdin(handle.pid, b'printf \'<%s|%s>\' "$GREETING" "$E2B_SANDBOX_ID"; exit\n')
    handle.wait(on_pty=seen.extend)
    assert f"<hi there|{box.sandbox_id}>".encode() in seen


def test_sudo_takes_them_along_only_when_told(box: Sandbox) -> None:
    # As on E2B, where sudo is as Debian and Ubuntu configure it.
    assert json.loads(run(box, f"sudo {show('GREETING')}")) == {}
    assert json.loads(run(box, f"sudo -E {show('GREETING')}")) == {"GREETING": "hi there"}
    assert run(box, "sudo id -un") == "root\n"


def test_variables_of_one_command_win_and_do_not_stay(box: Sandbox) -> None:
    envs = {"GREETING": "yo", "OWN": "1", "E2B_SANDBOX": "false"}
    result = box.commands.run(show("GREETING", "OWN", "E2B_SANDBOX"), envs=envs)
    assert json.loads(result.stdout) == envs
    assert json.loads(run(box, show("GREETING", "OWN", "E2B_SANDBOX"))) == {
        "GREETING": "hi there",
        "E2B_SANDBOX": "true",
    }


def test_the_same_in_files(box: Sandbox) -> None:
    for name in ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"):
        assert run(box, f"cat /run/e2b/.{name}").strip() == expected(box)[name]


def test_the_agent_tells_them(server: RunningServer, box: Sandbox) -> None:
    headers = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49983"}
    assert httpx.get(f"{server.url}/envs", headers=headers).status_code == 401
    headers["X-Access-Token"] = box._envd_access_token or ""
    found = httpx.get(f"{server.url}/envs", headers=headers).json()
    assert expected(box).items() <= found.items()


def test_user_and_directory(box: Sandbox) -> None:
    asked = "echo $(id -un) $HOME $USER $(pwd)"
    assert run(box, asked) == "user /home/user user /home/user\n"
    assert run(box, asked, user="root") == "root /root root /root\n"
    assert run(box, "pwd", cwd="/tmp") == "/tmp\n"
    assert run(box, "pwd", cwd="~", user="root") == "/root\n"
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        run(box, "true", user="nobody-here")


def test_what_one_sandbox_is_given_no_other_sees(server: RunningServer, box: Sandbox) -> None:
    with Sandbox.create(**server.options) as other:
        assert json.loads(run(other, show("GREETING"))) == {}
        assert run(other, "echo $E2B_SANDBOX_ID").strip() == other.sandbox_id


@pytest.mark.parametrize("method", ["Start", "Connect"])
def test_a_quiet_stream_shows_signs_of_life(box: Sandbox, rpc: Rpc, method: str) -> None:
    """At the interval that the client asks for."""
    sleeper = box.commands.run("sleep 60", background=True)
    asked: dict[str, Any] = {"process": {"pid": sleeper.pid}}
    if method == "Start":
        asked = {"process": {"cmd": "/bin/sleep", "args": ["3"]}, "stdin": False}
    began = time.monotonic()
    seen = b""
    with rpc(method, asked, {"Keepalive-Ping-Interval": "1"}) as answer:
        for chunk in answer.iter_raw():
            seen += chunk
            if seen.count(b'"keepalive"') == 2:
                break
    assert seen.count(b'"keepalive"') == 2
    assert time.monotonic() - began > 1.5
    sleeper.kill()
