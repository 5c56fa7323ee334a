"""The template itself: builds that are killed, old builds, starts that fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from e2b import Sandbox

from atoll.templates.interpreter import NAME, START
from tests.server import TEMPLATES, RunningServer, find_leftovers, run_server


def test_a_killed_build_is_ended_by_the_next_start(tmp_path: Path) -> None:
    store, data_dir = tmp_path / "templates", tmp_path / "data"
    store.mkdir()
    data_dir.mkdir()
    (store / "base").symlink_to(Path(TEMPLATES) / "base")
    workshop = store / NAME / ".workshop"
    command = [sys.executable, "-m", "atoll", "template", "build", NAME]
    command += ["--data-dir", str(data_dir)]
    environ = {**os.environ, "ATOLL_TEMPLATE_DIR": str(store)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as build:
        assert build.stdout is not None
        for line in build.stdout:
            if "Python libraries" in line:
                break
        build.send_signal(signal.SIGKILL)
    assert find_leftovers(workshop) != []
    with run_server(data_dir, pool_size=0, template_dir=str(store)):
        assert find_leftovers(workshop) == []
        assert not workshop.exists()


def test_what_it_starts_is_in_the_log(server: RunningServer) -> None:
    """The start command's process and output, from before the sandbox was anybody's."""

    def read_log() -> list[dict[str, Any]]:
        url = f"{server.url}/v2/sandboxes/{sandbox.sandbox_id}/logs"
        logs: list[dict[str, Any]] = httpx.get(url, headers=server.headers).json()["logs"]
        return logs

    with Sandbox.create(NAME, timeout=120, **server.options) as sandbox:
        (start,) = [each for each in read_log() if START in each["fields"].get("command", "")]
        # All of its group: the supervisor would only start the interpreter again.
        sandbox.commands.run(f"sudo kill -SEGV -- -{start['fields']['pid']}")
        deadline = time.monotonic() + 20
        while True:
            ends = [e for e in read_log() if e["fields"].get("event_type") == "process_end"]
            if start["fields"]["pid"] in [each["fields"]["pid"] for each in ends]:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_template_that_is_not_built_says_how(tmp_path: Path) -> None:
    store, data_dir = tmp_path / "templates", tmp_path / "data"
    store.mkdir()
    data_dir.mkdir()
    (store / "base").symlink_to(Path(TEMPLATES) / "base")
    with run_server(data_dir, pool_size=0, template_dir=str(store)) as server:
        answer = httpx.post(
            f"{server.url}/sandboxes", headers=server.headers, json={"templateID": NAME}
        )
        assert answer.status_code == 404
        assert f"atoll template build {NAME}" in answer.json()["message"]
