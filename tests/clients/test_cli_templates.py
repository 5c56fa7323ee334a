"""The official command line's `e2b template …`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from tests.clients.test_cli import CommandLine
from tests.server import RunningServer

# Kept simple: the tool's own reader knows less than that of the Python SDK, and what it writes in
# `migrate` has no quotes in it.
DOCKERFILE = """
FROM e2bdev/base
ARG WHO=nobody
ENV GREETING=hello-$WHO
WORKDIR /srv/app
COPY *.sh ./
RUN ./make.sh >made && echo built by $(whoami) >>made
CMD ["sleep", "4711"]
"""


@pytest.fixture
def e2b(environ: dict[str, str]) -> CommandLine:
    return CommandLine(environ)


@pytest.fixture
def name() -> str:
    return f"cli-{time.time_ns()}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "e2b.Dockerfile").write_text(DOCKERFILE)
    (directory / "make.sh").write_text('#!/bin/sh\necho "$GREETING"\n')
    (directory / "make.sh").chmod(0o755)
    return directory


@pytest.fixture
def created(e2b: CommandLine, name: str, project: Path) -> Iterator[str]:
    told = e2b.told("template", "create", name, "--path", str(project), "--memory-mb", "512")
    assert f"Building sandbox template {name} finished" in told
    yield name
    e2b("template", "delete", "--yes", name)


def use(name: str, server: RunningServer, command: str) -> str:
    with Sandbox.create(name, timeout=60, **server.options) as sandbox:
        return str(sandbox.commands.run(command).stdout)


def test_create(created: str, e2b: CommandLine, server: RunningServer, project: Path) -> None:
    assert use(created, server, "cat made; pwd; pgrep -x sleep >/dev/null && echo runs") == (
        "hello-nobody\nbuilt by root\n/srv/app\nruns\n"
    )
    options = ("--path", str(project), "--cmd", "sleep 4712", "--ready-cmd", "true")
    assert "(cached)" in e2b.told("template", "create", created, *options)
    assert use(created, server, "pgrep -f -x 'sleep 4712' >/dev/null && echo runs") == "runs\n"


def test_create_that_fails(e2b: CommandLine, name: str, project: Path) -> None:
    (project / "e2b.Dockerfile").write_text("FROM e2bdev/base\nRUN echo out && exit 7\n")
    done = e2b("template", "create", name, "--path", str(project))
    assert done.returncode == 1
    assert "Template build failed" in done.stderr
    assert "exit status 7" in done.stderr


def test_list(created: str, e2b: CommandLine) -> None:
    listed = json.loads(e2b.told("template", "list", "--format", "json"))
    (mine,) = [each for each in listed if created in each["aliases"]]
    assert (mine["memoryMB"], mine["public"], mine["buildStatus"]) == (512, False, "ready")
    assert mine["templateID"] in e2b.told("template", "list")


def test_publish_and_unpublish(created: str, e2b: CommandLine) -> None:
    def is_public() -> bool:
        listed = json.loads(e2b.told("template", "list", "--format", "json"))
        return any(each["public"] for each in listed if created in each["aliases"])

    told = e2b.told("template", "publish", "--yes", created)
    assert f"Published as: default/{created}" in told
    assert is_public()
    e2b.told("template", "unpublish", "--yes", created)
    assert not is_public()


def test_delete(created: str, e2b: CommandLine) -> None:
    assert f"Deleting sandbox template {created}" in e2b.told("template", "delete", "-y", created)
    assert created not in e2b.told("template", "list")
    assert e2b("template", "delete", "--yes", created).returncode == 1


def run_script(script: Path, environ: dict[str, str]) -> None:
    """What the files say that the tool has written: run them."""
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=script.parent,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_init(
    e2b: CommandLine, environ: dict[str, str], name: str, server: RunningServer, tmp_path: Path
) -> None:
    options = ("--path", str(tmp_path), "--name", name, "--language", "python-sync")
    assert "Template initialized" in e2b.told("template", "init", *options)
    run_script(tmp_path / name / "build_dev.py", environ)
    assert use(f"{name}-dev", server, "whoami") == "user\n"


def test_migrate(
    e2b: CommandLine, environ: dict[str, str], name: str, server: RunningServer, project: Path
) -> None:
    (project / "e2b.toml").write_text(
        f'template_id = "{name}"\ndockerfile = "e2b.Dockerfile"\nstart_cmd = "sleep 4713"\n'
        'ready_cmd = "true"\ncpu_count = 1\n'
    )
    options = ("--path", str(project), "--language", "python-async")
    assert "Migration completed" in e2b.told("template", "migrate", *options)
    run_script(project / "build_prod.py", environ)
    assert use(name, server, "cat made") == "hello-nobody\nbuilt by root\n"
    listed = json.loads(e2b.told("template", "list", "--format", "json"))
    assert [each["cpuCount"] for each in listed if name in each["aliases"]] == [1]
