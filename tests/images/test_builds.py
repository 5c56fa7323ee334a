"""Templates from images, by the official SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import BuildException, PtySize, Sandbox, Template

from tests.images.making import LayerMaker, Picture, busybox_layer, find_program
from tests.images.registry import PASSWORD, USERNAME, Registry
from tests.server import TEMPLATES, RunningServer, run_server


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, private_registry: Registry
) -> Iterator[RunningServer]:
    """A server that knows both registries; in the end nothing of it may be left."""
    store = tmp_path_factory.mktemp("server") / "templates"
    store.mkdir()
    (store.parent / "data").mkdir()
    (store / "base").symlink_to(Path(TEMPLATES) / "base")
    with run_server(
        store.parent / "data",
        pool_size=0,
        template_dir=str(store),
        registries=f"{registry.address},{private_registry.address}",
        image_names="ubuntu:22.04=base",
    ) as running:
        yield running
    running.assert_nothing_left()


def test_an_image_of_busybox_alone(server: RunningServer, registry: Registry) -> None:
    """No bash, no Python, no C library: all of the SDK works."""
    picture = Picture([busybox_layer()], {"Env": ["PATH=/bin", "COLOUR=sea green"]})
    name = registry.push(picture, "sdk/busybox:1")
    template = Template().from_image(name).run_cmd("echo made > /made", user="root")
    lines: list[str] = []
    Template.build(
        template.set_start_cmd("httpd -f -p 8080 -h /", "[ -f /made ]"),
        "busybox-tool",
        on_build_logs=lambda entry: lines.append(entry.message),
        **server.options,
    )
    assert any("unpacking layer 1 of 1" in line for line in lines)
    with Sandbox.create("busybox-tool", timeout=120, **server.options) as sandbox:
        done = sandbox.commands.run("id -un; pwd; echo $COLOUR; cat /made")
        assert done.stdout == "user\n/home/user\nsea green\nmade\n"
        sandbox.files.write("notes/a.txt", "content")
        assert sandbox.commands.run("cat notes/a.txt").stdout == "content"
        assert [entry.name for entry in sandbox.files.list("notes")] == ["a.txt"]
        assert sandbox.commands.run("id -u", user="root").stdout == "0\n"
        terminal = sandbox.pty.create(size=PtySize(rows=24, cols=80), timeout=20)
        sandbox.pty.send_stdin(terminal.pid, b"echo $((6 * 7)); exit\n")
        seen = b""
        for out in terminal:
            seen += out[2] or b""
        assert b"42" in seen


def test_a_private_registry(server: RunningServer, private_registry: Registry) -> None:
    picture = Picture([busybox_layer(), LayerMaker().add("mine", b"yes").finish()])
    name = private_registry.push(picture, "sdk/private")
    with pytest.raises(BuildException, match="authentication required"):
        Template.build(Template().from_image(name), "not-mine", **server.options)
    template = Template().from_image(name, username=USERNAME, password=PASSWORD)
    Template.build(template, "mine", **server.options)
    with Sandbox.create("mine", timeout=120, **server.options) as sandbox:
        assert sandbox.commands.run("cat /mine").stdout == "yes"
    # Having been fetched for one, it is not there for others.
    with pytest.raises(BuildException, match="authentication required"):
        Template.build(Template().from_image(name), "not-mine", **server.options)
    assert PASSWORD not in server.log()


def test_names_of_images_that_are_here(server: RunningServer) -> None:
    Template.build(Template().from_base_image(), "from-base", **server.options)
    Template.build(Template().from_image("ubuntu:22.04"), "from-ubuntu", **server.options)
    with Sandbox.create("from-base", timeout=120, **server.options) as sandbox:
        assert "bookworm" in sandbox.commands.run("cat /etc/os-release").stdout


def test_what_is_not_there(server: RunningServer, registry: Registry) -> None:
    with pytest.raises(BuildException, match="manifest unknown"):
        Template.build(
            Template().from_image(f"{registry.address}/no/such:1"), "nothing", **server.options
        )
    with pytest.raises(BuildException, match="not the name of an image"):
        Template.build(Template().from_image("No Such"), "nothing", **server.options)


def test_an_archive_that_leads_out(server: RunningServer, registry: Registry) -> None:
    evil = LayerMaker().link("l", "/etc").add("l/cron.d", b"* * * * *").finish()
    name = registry.push(Picture([busybox_layer(), evil]), "sdk/evil")
    with pytest.raises(BuildException, match="used as a directory and is none"):
        Template.build(Template().from_image(name), "evil", **server.options)


def test_a_registry_that_nobody_has_named_is_asked_from_a_sandbox(
    server: RunningServer, registry: Registry
) -> None:
    """Else a client could speak to whatever listens on this host, or beside it."""
    port = registry.address.rpartition(":")[2]
    for host in ("localhost", "127.0.0.2"):
        before = (registry.directory / "log").stat().st_size
        with pytest.raises(BuildException, match=r"refused|unreachable|no such host"):
            Template.build(
                Template().from_image(f"{host}:{port}/sdk/busybox:1"), "probe", **server.options
            )
        assert (registry.directory / "log").stat().st_size == before


def test_one_static_program(server: RunningServer, registry: Registry) -> None:
    picture = Picture([LayerMaker().program("pwd", find_program("busybox")).finish()])
    name = registry.push(picture, "sdk/hello")
    Template.build(Template().from_image(name), "hello", **server.options)
    with Sandbox.create("hello", timeout=120, **server.options) as sandbox:
        sandbox.files.write("/tmp/note", "there")
        assert sandbox.files.read("/tmp/note") == "there"
        assert sandbox.files.exists("/pwd")
