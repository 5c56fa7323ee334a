"""`atoll template …` against a server."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from e2b import Sandbox, SandboxException
from typer.testing import CliRunner, Result

from atoll.cli import app
from atoll.errors import Conflict
from tests.dockerfiles.conftest import Project
from tests.images.making import Picture, busybox_layer
from tests.images.registry import PASSWORD, USERNAME, Registry
from tests.server import RunningServer

SMALL = "FROM e2bdev/base\nARG KIND=release\nRUN echo $KIND $(date +%s%N) >/kind\n"


def template(server: RunningServer, *arguments: str) -> str:
    done = server.atoll("template", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def begin(*arguments: str) -> Result:
    """`init` has nothing to do with a server."""
    return CliRunner().invoke(app, ["template", "init", *arguments])


def told(server: RunningServer, *arguments: str) -> Any:
    return json.loads(template(server, *arguments, "--json"))


def read(project: Project, name: str, path: str) -> str:
    with project.sandbox(name) as sandbox:
        return str(sandbox.files.read(path))


def test_from_the_beginning_to_the_end(project: Project, server: RunningServer) -> None:
    root = str(project.root)
    assert "wrote" in begin("--name", "mine", "--path", root).output
    again = begin("--path", root)
    assert isinstance(again.exception, Conflict)
    assert "is there already" in again.exception.message
    assert re.search(
        r"^mine \([a-z0-9]{20}\) is ready after", template(server, "build", "-p", root)
    )
    made, log = project.built()
    assert made["name"] == "mine"
    assert "FROM e2bdev/base" in log
    (listed,) = [each for each in told(server, "list") if "mine" in each["aliases"]]
    assert listed["templateID"] == made["template_id"]
    assert listed["buildStatus"] == "ready"
    assert made["template_id"] in template(server, "list")
    shown = told(server, "show", "mine")
    assert [each["status"] for each in shown["builds"]] == ["ready", "ready"]
    assert shown["tags"][0]["buildID"] == made["build_id"]
    assert re.search(rf"{made['build_id']} .* default", template(server, "show", "mine"))
    assert "FROM e2bdev/base" in template(server, "logs", "mine")
    lines = template(server, "logs", "mine", "--json", "--build", shown["builds"][-1]["buildID"])
    assert json.loads(lines.splitlines()[0])["step"] == "base"
    assert "deleted mine" in template(server, "delete", "mine")
    gone = server.atoll("template", "show", "mine")
    assert gone.returncode == 1
    assert "'mine' was not found" in gone.stderr


def test_versions_side_by_side(project: Project, server: RunningServer) -> None:
    project.write(
        e2b__Dockerfile=SMALL,
        e2b__toml='template_name = "app-dev"\ncpu_count = 1\nmemory_mb = 512\n',
        prod__toml='template_name = "app-prod"\n',
    )
    project.built("--build-arg", "KIND=dev")
    project.built("--config", "prod.toml")
    project.built("--name", "app-v1.0.0", "--build-arg", "KIND=one")
    project.built("--name", "app-v1.0.0:stable", "--build-arg", "KIND=two", "--memory-mb", "1024")
    kinds = {"app-dev": "dev", "app-prod": "release", "app-v1.0.0": "one"}
    for name, kind in {**kinds, "app-v1.0.0:stable": "two"}.items():
        assert read(project, name, "/kind").split()[0] == kind
    listed = {each["aliases"][0]: each for each in told(server, "list")}
    assert (listed["app-dev"]["cpuCount"], listed["app-dev"]["memoryMB"]) == (1, 512)


def test_a_template_on_another(project: Project) -> None:
    project.write(e2b__Dockerfile=SMALL)
    project.built("--name", "lower-v1")
    project.write(e2b__Dockerfile="FROM lower-v1\nRUN cat /kind >/upper && pwd >>/upper\n")
    project.built("--name", "upper")
    lower, directory = read(project, "upper", "/upper").split("\n")[:2]
    assert lower == read(project, "lower-v1", "/kind").strip()
    assert directory == "/"


def test_the_cache(project: Project) -> None:
    project.write(e2b__Dockerfile=SMALL + "COPY file /file\n", file="1")
    project.built("--name", "cached")
    first = read(project, "cached", "/kind")
    made, log = project.built("--name", "cached")
    assert log.count("(cached)") == 2
    assert "sending" not in log
    project.write(file="2")
    _, log = project.built("--name", "cached")
    assert log.count("(cached)") == 1
    assert read(project, "cached", "/kind") == first
    assert read(project, "cached", "/file") == "2"
    _, log = project.built("--name", "cached", "--no-cache")
    assert "(cached)" not in log
    assert read(project, "cached", "/kind") != first
    assert made["seconds"] > 0


def test_a_failure_leaves_what_was_there(project: Project, server: RunningServer) -> None:
    project.write(e2b__Dockerfile=SMALL)
    project.built("--name", "robust")
    first = read(project, "robust", "/kind")
    project.write(e2b__Dockerfile=SMALL + "# remark\nRUN echo before && ls /missing\n")
    said = project.refused("--name", "robust")
    assert "e2b.Dockerfile:5: before" in said
    assert "atoll: e2b.Dockerfile:5: failed to run command" in said
    assert "No such file" in said
    logs = server.atoll("template", "logs", "robust")
    assert logs.returncode == 1
    assert "e2b.Dockerfile:5: before" in logs.stdout
    assert read(project, "robust", "/kind") == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "the template has no name"),
        (("--name", "a", "--dockerfile", "other"), "there is no other"),
        (("--name", "a", "--config", "other.toml"), "other.toml"),
        (("--name", "Not a name!"), "is not a template's name"),
        (("--name", "base"), "comes with Atoll"),
        (("nonsense",), "is not a template that comes with Atoll"),
        (("--name", "a", "--target", "nowhere"), "there is no stage 'nowhere'"),
        (("--name", "a", "--cpu-count", "1000"), "cpu"),
    ],
)
def test_mistakes(project: Project, options: tuple[str, ...], message: str) -> None:
    project.write(e2b__Dockerfile="FROM e2bdev/base\n")
    assert message.lower() in project.refused(*options).lower()


def test_a_wrong_line_is_refused_before_anything_is_built(project: Project) -> None:
    project.write(e2b__Dockerfile="FROM e2bdev/base\n\nCOPY missing /\n")
    said = project.refused("--name", "never")
    assert said.startswith("atoll: e2b.Dockerfile:3: there is no 'missing' in")
    with pytest.raises(SandboxException, match="not found"):
        Sandbox.create("never", **project.server.options)


def test_no_server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    project.write(e2b__Dockerfile="FROM e2bdev/base\n")
    elsewhere = RunningServer(tmp_path_factory.mktemp("none"), 1, {})
    done = elsewhere.atoll("template", "build", "--path", str(project.root), "--name", "a")
    assert done.returncode == 1
    assert "no server runs" in done.stderr
    assert "FIX: start one with `atoll serve`" in done.stderr


def test_a_private_registry(project: Project, private_registry: Registry) -> None:
    image = private_registry.push(Picture([busybox_layer()]), "team/image:1")
    project.write(e2b__Dockerfile=f"FROM {image}\nCMD sleep 1000\n")
    assert "unauthorized" in project.refused("--name", "private", "--no-cache").lower()
    auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    auths = {"auths": {private_registry.address: {"auth": auth}}}
    file = project.put("auth.json", json.dumps(auths))
    _, log = project.built("--name", "private", "--authfile", str(file))
    assert PASSWORD not in log
    with project.sandbox("private") as sandbox:
        assert sandbox.commands.run("id -un").stdout == "user\n"
