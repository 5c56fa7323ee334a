"""examples/s3-template: it builds, its sandboxes start, and its mount works where it may mount."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from atoll.templates.dockerfile.context import Context, read_ignored
from atoll.templates.dockerfile.syntax import parse_dockerfile
from atoll.templates.project import read_project
from tests.server import link_templates, run_server

FETCHED = Path(__file__).parents[2] / ".venv-clients/debian/usr"
EXAMPLE = Path(__file__).parents[2] / "examples" / "s3-template"
BUCKET = {
    "S3_BUCKET": "things",
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "secret/key",
    # Nobody answers there: what is asked for is that the failure is told.
    "S3_ENDPOINT": "http://127.0.0.1:9",
}


@pytest.mark.timeout(600)
def test_it_builds_and_starts(tmp_path: Path) -> None:
    store = str(link_templates(tmp_path / "templates", "base", "code-interpreter-v1"))
    with run_server(tmp_path, pool_size=0, template_dir=store) as server:
        # The address of goofys leads nowhere from here, and in a test it should not lead elsewhere.
        address = "http://127.0.0.1:9/goofys"
        done = server.atoll(
            *("template", "build", "--path", str(EXAMPLE), "--name", "s3-v1.0.0"),
            *("--build-arg", f"GOOFYS_URL={address}"),
        )
        assert done.returncode == 0, done.stderr
        assert "no goofys: s3fs will be used" in done.stderr
        with Sandbox.create("s3-v1.0.0", timeout=300, **server.options) as sandbox:
            assert sandbox.run_code("6 * 7").text == "42"
            assert json.loads(sandbox.files.read(".s3-status.json"))["state"] == "not configured"
            failed = sandbox.commands.run("mount-bucket || echo failed", envs=BUCKET)
            assert failed.stdout == "failed\n"
            status = json.loads(sandbox.files.read(".s3-status.json"))
            assert (status["state"], status["bucket"]) == ("failed", "things")
            assert "trying goofys\ntrying s3fs" in status["log"]
            assert "secret/key" not in json.dumps(status)
            modes = sandbox.commands.run("stat -c %a .passwd-s3fs .aws/credentials .aws/config")
            assert modes.stdout == "600\n600\n600\n"
            assert sandbox.files.read(".passwd-s3fs") == "AKIATEST:secret/key\n"
            found = sandbox.commands.run(
                "command -v aws s3fs jq curl fusermount; id -nG; stat -c '%U %n' /opt/sentient;"
                " grep ^user_allow_other /etc/fuse.conf"
            )
            assert found.stdout.split() == [
                *("/usr/bin/aws", "/usr/bin/s3fs", "/usr/bin/jq", "/usr/bin/curl"),
                *("/usr/bin/fusermount", "user", "sudo", "fuse", "user", "/opt/sentient"),
                "user_allow_other",
            ]
    server.assert_nothing_left()


def test_the_files_are_whole() -> None:
    project = read_project(EXAMPLE)
    assert project.name == "s3"
    parse_dockerfile(project.dockerfile.read_text(), project.dockerfile.name)
    found = Context(EXAMPLE, read_ignored(EXAMPLE, project.dockerfile)).select(".")
    assert {member.path for member in found} >= {"start-up", "mount-bucket"}
    assert not {"README.md", "compose.yaml", ".env"} & {member.path for member in found}
    for name in ("start-up", "mount-bucket"):
        assert (EXAMPLE / name).stat().st_mode & stat.S_IXUSR


class Tools:
    """A `PATH` on which mounting is played by programs that note how they are called."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        self.home = root / "home"
        self.home.mkdir()
        self.directory = root / "bucket"
        self.calls = root / "calls"

    def add(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def run(self, **environ: str) -> dict[str, Any]:
        given = {"PATH": f"{self.bin}:{os.environ['PATH']}:{FETCHED}/bin", "HOME": str(self.home)}
        given["LD_LIBRARY_PATH"] = ":".join(map(str, (FETCHED / "lib").glob("*-linux-gnu")))
        given |= {"S3_MOUNT_DIR": str(self.directory), **BUCKET, **environ}
        subprocess.run([EXAMPLE / "mount-bucket"], env=given, check=False, capture_output=True)
        status: dict[str, Any] = json.loads((self.home / ".s3-status.json").read_text())
        return status


def test_which_method_is_taken(tmp_path: Path) -> None:
    tools = Tools(tmp_path)
    tools.add("mountpoint", f'[ -e "{tmp_path}/mounted" ]')
    tools.add("s3fs", f'touch "{tmp_path}/mounted"')
    status = tools.run(AWS_REGION="eu-central-1")
    assert (status["state"], status["method"]) == ("mounted", "s3fs")
    call = next(each for each in tools.calls.read_text().split("\n") if each.startswith("s3fs"))
    assert f"things {tools.directory}" in call
    assert "endpoint=eu-central-1" in call
    assert "url=http://127.0.0.1:9,use_path_request_style" in call
    assert "secret" not in call
    (tmp_path / "mounted").unlink()
    tools.add("goofys", f'touch "{tmp_path}/mounted"')
    status = tools.run()
    assert (status["state"], status["method"]) == ("mounted", "goofys")
    (tmp_path / "mounted").unlink()
    tools.add("goofys", "exit 1")
    assert tools.run()["method"] == "s3fs"
