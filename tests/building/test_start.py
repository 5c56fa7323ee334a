"""Start and ready commands of templates that are built."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from e2b import (
    BuildException,
    ReadyCmd,
    Sandbox,
    Template,
    wait_for_file,
    wait_for_port,
    wait_for_process,
    wait_for_timeout,
    wait_for_url,
)

from tests.server import RunningServer


def find_ready(kind: str) -> ReadyCmd:
    """A way to wait for the web server of the test below."""
    ways: dict[str, Callable[[], ReadyCmd]] = {
        "file": lambda: wait_for_file("/etc/passwd"),
        "port": lambda: wait_for_port(8000),
        "process": lambda: wait_for_process("python3"),
        "timeout": lambda: wait_for_timeout(1000),
        "url": lambda: wait_for_url("http://localhost:8000/"),
    }
    return ways[kind]()


@pytest.mark.parametrize("kind", ["file", "port", "process", "timeout", "url"])
def test_start_commands(server: RunningServer, kind: str) -> None:
    ready = find_ready(kind)
    assert ready.get_cmd()  # type: ignore[no-untyped-call]
    template = Template().from_template("base").set_workdir("/srv")
    final = template.set_start_cmd("python3 -m http.server", ready)
    Template.build(final, f"started-{kind}", **server.options)
    with Sandbox.create(f"started-{kind}", **server.options) as sandbox:
        asked = "curl -s --retry 9 --retry-connrefused -o /dev/null -w '%{http_code}'"
        assert sandbox.commands.run(f"{asked} localhost:8000").stdout == "200"
        (process,) = sandbox.commands.list()
        assert process.cwd == "/srv"


def test_who_asks_first_does_not_wait(server: RunningServer) -> None:
    """The sandbox in which the start command was tried is handed out; a build without changes
    leaves it where it is; a removed template takes it along."""
    template = Template().from_template("base")
    final = template.set_start_cmd("sleep infinity", wait_for_timeout(3000))
    build = Template.build(final, "slow", **server.options)
    Template.build(final, "slow", **server.options)
    began = time.monotonic()
    with Sandbox.create("slow", **server.options) as sandbox:
        assert time.monotonic() - began < 2
        assert len(sandbox.commands.list()) == 1
    url = f"{server.url}/templates/{build.template_id}"
    assert httpx.delete(url, headers=server.headers).status_code == 204


def test_a_start_command_that_fails(server: RunningServer) -> None:
    template = Template().from_template("base").run_cmd("true")
    final = template.set_start_cmd("echo alas >&2; exit 7", wait_for_port(1))
    with pytest.raises(BuildException, match=r"exit status 7.*alas"):
        Template.build(final, "not-started", **server.options)
