"""Templates that travel: from one server to another, by a registry and by a file."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox, Template

from tests.images.making import LayerMaker, Picture, busybox_layer
from tests.images.registry import Registry
from tests.server import TEMPLATES, RunningServer, run_server

# All that one layer can do to those below it.
CHANGES = """\
/bin/busybox --install -s /bin
mkdir -p /srv/tree/deep /srv/old /opt/was && echo kept > /srv/tree/deep/file && touch /srv/gone
echo two > /srv/tree/two && ln /srv/tree/two /srv/tree/also && ln -s ../far /srv/tree/link
echo 1 > /srv/old/one && mkfifo /srv/tree/pipe
chmod 4711 /srv/tree/two && chown 12:34 /srv/tree/deep
"""
MORE_CHANGES = """\
mv /srv/tree/deep /srv/moved && echo more > /srv/moved/more && mv /srv/old /srv/tree/renamed
rm /srv/tree/link /srv/gone && rm -r /opt && mkdir /opt && echo n > /opt/new
"""
LISTING = (
    r"cd / && find srv opt bin | sort | xargs stat -c '%n %F %a %u %g %h %N' | grep -v directory"
    "; find srv opt -type d | sort | xargs stat -c '%n %a %u %g'; cat srv/moved/* opt/new"
)


def _serve(directory: Path, registry: Registry) -> Iterator[RunningServer]:
    store = directory / "templates"
    (directory / "data").mkdir()
    store.mkdir()
    (store / "base").symlink_to(Path(TEMPLATES) / "base")
    with run_server(
        directory / "data", pool_size=0, template_dir=str(store), registries=registry.address
    ) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[RunningServer]:
    """Where templates are made."""
    yield from _serve(tmp_path_factory.mktemp("home"), registry)


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[RunningServer]:
    """Where they go."""
    yield from _serve(tmp_path_factory.mktemp("abroad"), registry)


def test_by_a_registry(home: RunningServer, abroad: RunningServer, registry: Registry) -> None:
    name = registry.push(Picture([busybox_layer()], {"Env": ["PATH=/bin"]}), "travel/start")
    template = Template().from_image(name).run_cmd("echo here > /mark", user="root")
    template = template.set_envs({"GREETING": "hello 'you'"}).set_workdir("/home/user/place")
    Template.build(
        template.set_start_cmd("touch /tmp/started; sleep 1000", "[ -f /tmp/started ]"),
        "traveller:v1",
        cpu_count=1,
        memory_mb=512,
        **home.options,
    )
    target = f"{registry.address}/travel/traveller:v1"
    pushed = home.atoll("template", "push", "traveller:v1", target)
    assert pushed.returncode == 0, pushed.stderr
    pulled = abroad.atoll("template", "pull", target)
    assert pulled.returncode == 0, pulled.stderr
    with Sandbox.create("traveller", timeout=60, **abroad.options) as sandbox:
        done = sandbox.commands.run("cat /mark; echo $GREETING; pwd; ls /tmp; id -un")
        assert done.stdout == "here\nhello 'you'\n/home/user/place\nstarted\nuser\n"
        assert (sandbox.get_info().cpu_count, sandbox.get_info().memory_mb) == (1, 512)
    # It is an image like any other, and another server's build may begin with it.
    Template.build(Template().from_image(target), "by-sdk", **abroad.options)


def _join(lines: str) -> str:
    return " && ".join(lines.splitlines())


def test_by_a_file(
    home: RunningServer, abroad: RunningServer, registry: Registry, tmp_path: Path
) -> None:
    """With all that layers do to each other."""
    name = registry.push(Picture([busybox_layer()], {"Env": ["PATH=/bin"]}), "travel/changed")
    template = Template().from_image(name).run_cmd(_join(CHANGES), user="root")
    Template.build(template.run_cmd(_join(MORE_CHANGES), user="root"), "changed", **home.options)
    file = tmp_path / "changed.tar"
    pushed = home.atoll("template", "push", "changed", str(file))
    assert pushed.returncode == 0, pushed.stderr
    again = home.atoll("template", "push", "changed", str(file))
    assert again.returncode == 1
    assert "is there already" in again.stderr
    pulled = abroad.atoll("template", "pull", str(file), "--name", "arrived")
    assert pulled.returncode == 0, pulled.stderr
    seen = []
    for server, name in ((home, "changed"), (abroad, "arrived")):
        with Sandbox.create(name, timeout=60, **server.options) as sandbox:
            seen.append(sandbox.commands.run(LISTING, user="root").stdout)
    assert "srv/tree/two regular file 4711 0 0 2 srv/tree/two" in seen[0]
    assert "srv/moved 755 12 34" in seen[0]
    assert seen[0].splitlines() == seen[1].splitlines()


def test_what_docker_saves(abroad: RunningServer, tmp_path: Path) -> None:
    upper = LayerMaker().add("note", b"saved").finish()
    file = Picture([busybox_layer(), upper]).write_docker_archive(tmp_path / "saved.tar")
    refused = abroad.atoll("template", "pull", str(file))
    assert refused.returncode == 1
    assert "--name" in refused.stderr
    pulled = abroad.atoll("template", "pull", str(file), "--name", "saved")
    assert pulled.returncode == 0, pulled.stderr
    with Sandbox.create("saved", timeout=60, **abroad.options) as sandbox:
        assert sandbox.commands.run("cat /note").stdout == "saved"


def test_an_oci_layout(abroad: RunningServer, tmp_path: Path) -> None:
    layout = Picture([busybox_layer()]).write_layout(tmp_path / "layout")
    pulled = abroad.atoll("template", "pull", str(layout), "--name", "laid-out")
    assert pulled.returncode == 0, pulled.stderr
    file = tmp_path / "layout.tar"
    subprocess.run(["tar", "-C", layout, "-cf", file, "."], check=True)
    pulled = abroad.atoll("template", "pull", str(file), "--name", "laid-out-too")
    assert pulled.returncode == 0, pulled.stderr


def test_what_is_no_image(abroad: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "some.tar"
    file.write_bytes(LayerMaker().add("a", b"b").finish())
    for path, reason in ((file, "neither"), (tmp_path, "no OCI layout")):
        pulled = abroad.atoll("template", "pull", str(path), "--name", "no")
        assert pulled.returncode == 1
        assert reason in pulled.stderr


def test_a_client_can_read_no_file_of_the_server(abroad: RunningServer, tmp_path: Path) -> None:
    """Not even one that is an image."""
    layout = Picture([busybox_layer()]).write_layout(tmp_path / "secret")
    for text in (f"oci:{layout}", str(layout), f"docker-archive:{layout}"):
        with pytest.raises(Exception, match=r"is not the name|tag that is none"):
            Template.build(Template().from_image(text), "spy", **abroad.options)
    unknown = "sha256:" + hashlib.sha256(os.urandom(8)).hexdigest()
    with pytest.raises(Exception, match=r"no image sha256:"):
        Template.build(Template().from_image(unknown), "spy", **abroad.options)
