"""A server that is killed while it builds; builds that want the same at the same time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest
from e2b import BuildException, LogEntry, Sandbox, Template

from tests.server import RunningServer, link_templates, run_server


def test_a_killed_server_leaves_the_template_as_it_was(tmp_path: Path) -> None:
    store = link_templates(tmp_path / "templates")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with run_server(data_dir, pool_size=0, template_dir=str(store)) as server:
        good = Template().from_template("base").run_cmd("echo good > state")
        Template.build(good, "kept", **server.options)
        going = Template.build_in_background(
            good.run_cmd("echo bad > state; echo halfway; sleep 600"), "kept", **server.options
        )
        _wait_for(server, going, "halfway")
        server.kill()
        server.start(stop_sandboxes=True)
        status = Template.get_build_status(going, **server.options)
        assert status.status.value == "error"
        assert status.reason is not None
        assert "server ended" in status.reason.message
        with Sandbox.create("kept", **server.options) as sandbox:
            assert sandbox.files.read("state") == "good\n"
        again = Template().from_template("base").run_cmd("echo good > state")
        Template.build(again.run_cmd("echo better > state"), "kept", **server.options)
        with Sandbox.create("kept", **server.options) as sandbox:
            assert sandbox.files.read("state") == "better\n"
    server.assert_nothing_left()


def test_removing_a_template_ends_its_build(server: RunningServer) -> None:
    template = Template().from_template("base").run_cmd("echo begun; sleep 600")
    build = Template.build_in_background(template, "ended", **server.options)
    _wait_for(server, build, "begun")
    url = f"{server.url}/templates/{build.template_id}"
    assert httpx.delete(url, headers=server.headers, timeout=10).status_code == 204
    with pytest.raises(BuildException, match="404"):
        Template.get_build_status(build, **server.options)


def test_builds_at_the_same_time_share(server: RunningServer) -> None:
    """The same step in two templates is done once, and both have what it did."""
    logs: dict[str, list[str]] = {"one": [], "two": []}

    def build(name: str) -> None:
        def note(line: LogEntry) -> None:
            logs[name].append(line.message)

        template = Template().from_template("base").run_cmd("sleep 1; date +%N > moment")
        Template.build(template, f"shared-{name}", on_build_logs=note, **server.options)

    threads = [threading.Thread(target=build, args=(name,)) for name in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("waiting for another build" in line for said in logs.values() for line in said) == 1
    moments = set()
    for name in logs:
        with Sandbox.create(f"shared-{name}", **server.options) as sandbox:
            moments.add(sandbox.files.read("moment"))
    assert len(moments) == 1


def _wait_for(server: RunningServer, build: object, line: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = Template.get_build_status(build, **server.options)  # type: ignore[arg-type]
        if line in [entry.message for entry in status.log_entries]:
            return
        time.sleep(0.02)
    raise AssertionError(f"the build never said {line!r}")
