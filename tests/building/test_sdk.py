"""The official Template SDK: what a chain of calls becomes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AsyncTemplate,
    BuildException,
    LogEntry,
    Sandbox,
    Template,
    default_build_logger,
    wait_for_file,
    wait_for_process,
)

from tests.server import RunningServer


def write_steps(template: Any) -> Any:
    """Every kind of step, upon what the template stands on already."""
    return (
        template.set_envs({"GREETING": "hello", "TWICE": "$HOME and \\$HOME"})
        .run_cmd('echo "$GREETING" > greeting; pwd > where; whoami > who')
        .run_cmd(["touch /root/a", "touch /root/b"], user="root")
        .set_workdir("/srv/app")
        .copy("one.txt", "/srv/app/")
        .copy("two.txt", "renamed.txt", mode=0o600)
        .copy("folder", "/opt/folder", user="root")
        .copy_items([{"src": ["one.txt", "two.txt"], "dest": "/opt/both/"}])
        .make_dir("made", mode=0o700)
        .make_symlink("renamed.txt", "linked")
        .rename("one.txt", "first.txt")
        .remove("/opt/both/two.txt", user="root")
        .set_user("root")
        .run_cmd("id -un > /opt/who")
        .set_user("user")
    )


def check_steps(sandbox: Sandbox) -> None:
    """Whether a sandbox shows what they do."""

    def run(command: str) -> str:
        return str(sandbox.commands.run(command).stdout)

    said = run("sudo cat ~/greeting ~/where ~/who /opt/who; pwd; sudo ls /root/a /root/b | wc -l")
    assert said.split() == ["hello", "/home/user", "user", "root", "/srv/app", "2"]
    assert run("stat -c '%n %U %a' first.txt renamed.txt made").splitlines() == [
        "first.txt user 644",
        "renamed.txt user 600",
        "made user 700",
    ]
    assert run("cat linked; readlink /opt/folder/link") == "two\ninner.txt\n"
    assert run("/opt/folder/sub/deep.sh; stat -c %U /opt/folder/inner.txt") == "deep\nroot\n"
    assert run("ls /opt/both; echo $GREETING") == "one.txt\nhello\n"
    assert run("printenv TWICE") == "/home/user and $HOME\n"


def test_every_kind_of_step(server: RunningServer, context: Path) -> None:
    template = write_steps(Template(file_context_path=str(context)).from_base_image())
    Template.build(template, "steps", **server.options)
    with Sandbox.create("steps", **server.options) as sandbox:
        check_steps(sandbox)


async def test_every_kind_of_step_async(server: RunningServer, context: Path) -> None:
    template = write_steps(AsyncTemplate(file_context_path=str(context)).from_base_image())
    await AsyncTemplate.build(template, "steps-async", **server.options)
    with Sandbox.create("steps-async", **server.options) as sandbox:
        check_steps(sandbox)


def install_packages(template: Any) -> Any:
    """Everything that has a step of its own for its installer."""
    return (
        template.pip_install("six==1.16.0")
        .npm_install(["is-number@7.0.0", "bun"], g=True)
        .bun_install("is-odd")
        .apt_install("cowsay")
        .run_cmd("git init -q --bare /opt/bare", user="root")
        .git_clone("/opt/bare", "/opt/cloned", user="root")
    )


def test_installing_packages(server: RunningServer) -> None:
    template = install_packages(Template().from_template("base"))
    Template.build(template, "packages", **server.options)
    with Sandbox.create("packages", **server.options) as sandbox:
        assert sandbox.commands.run("python3 -c 'import six'").exit_code == 0
        assert "is-number" in sandbox.commands.run("npm list -g").stdout
        assert "moo" in sandbox.commands.run("/usr/games/cowsay moo").stdout
        assert sandbox.commands.run("ls node_modules/is-odd /opt/cloned/.git").exit_code == 0


async def test_installing_packages_async(server: RunningServer) -> None:
    """The same recipe by the other client: nothing is installed again."""
    template = install_packages(AsyncTemplate().from_template("base"))
    await AsyncTemplate.build(template, "packages", **server.options)


def test_what_is_done_is_not_done_again(server: RunningServer) -> None:
    def build(*commands: str, skip_cache: bool = False) -> list[str]:
        template = Template().from_template("base")
        for command in commands:
            template = template.run_cmd(command)
        lines: list[LogEntry] = []
        show = default_build_logger()

        def note(line: LogEntry) -> None:
            lines.append(line)
            show(line)

        Template.build(
            template, "cached", skip_cache=skip_cache, on_build_logs=note, **server.options
        )
        return [line.message for line in lines if line.message.startswith("[")]

    def version() -> str:
        with Sandbox.create("cached", **server.options) as sandbox:
            return str(sandbox.files.read("one"))

    first = "date +%N > one"
    assert build(first, "date +%N > two") == [f"[1] RUN {first}", "[2] RUN date +%N > two"]
    started = time.monotonic()
    assert build(first, "date +%N > two") == [
        f"[1] RUN {first} (cached)",
        "[2] RUN date +%N > two (cached)",
    ]
    assert time.monotonic() - started < 1
    assert build(first, "date +%N > three") == [
        f"[1] RUN {first} (cached)",
        "[2] RUN date +%N > three",
    ]
    assert build(first, "date +%N > two", skip_cache=True) == [
        f"[1] RUN {first}",
        "[2] RUN date +%N > two",
    ]
    anew = version()
    # From now on this is what is found.
    assert build(first, "date +%N > two") == [
        f"[1] RUN {first} (cached)",
        "[2] RUN date +%N > two (cached)",
    ]
    assert version() == anew


def test_a_step_that_is_forced(server: RunningServer) -> None:
    def build() -> tuple[str, str]:
        template = (
            Template()
            .from_template("base")
            .run_cmd("date +%N > kept")
            .skip_cache()
            .run_cmd("date +%N > anew")
        )
        Template.build(template, "forced", **server.options)
        with Sandbox.create("forced", **server.options) as sandbox:
            kept, anew = (sandbox.files.read(name) for name in ("kept", "anew"))
        return str(kept), str(anew)

    first, second = build(), build()
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_files_are_sent_once(server: RunningServer, context: Path) -> None:
    def build(*, force: bool = False) -> list[str]:
        template = Template(file_context_path=str(context)).from_template("base")
        template = template.copy("one.txt", "sent.txt", force_upload=True if force else None)
        lines: list[LogEntry] = []
        Template.build(template, "sent", on_build_logs=lines.append, **server.options)
        return [line.message for line in lines if "upload" in line.message.lower()][:1]

    assert build() == ["Uploaded 'one.txt'"]
    assert build() == ["Skipping upload of 'one.txt', already cached"]
    assert build(force=True) == ["Uploaded 'one.txt'"]
    (context / "one.txt").write_text("another\n")
    assert build() == ["Uploaded 'one.txt'"]
    with Sandbox.create("sent", **server.options) as sandbox:
        assert sandbox.files.read("sent.txt") == "another\n"


@pytest.mark.parametrize(
    ("command", "user", "reason"),
    [
        (
            "whoami",
            "root123",
            "failed to run command 'whoami': command failed: "
            "unauthenticated: invalid username: 'root123'",
        ),
        ("echo no >&2; exit 3", "user", "command failed: exit status 3\nno"),
    ],
)
def test_a_step_that_fails(server: RunningServer, command: str, user: str, reason: str) -> None:
    template = Template().from_template("base").run_cmd("true").run_cmd(command, user=user)
    with pytest.raises(BuildException) as caught:
        Template.build(template, "failing", **server.options)
    assert reason in str(caught.value)
    # Where the step was written, as the SDK finds it out by the step's number.
    assert caught.traceback[-1].path == Path(__file__)


def test_a_failed_build_leaves_the_template_as_it_was(server: RunningServer) -> None:
    good = Template().from_template("base").run_cmd("echo good > /home/user/state")
    Template.build(good, "kept", **server.options)
    with pytest.raises(BuildException):
        Template.build(good.run_cmd("false"), "kept", **server.options)
    with Sandbox.create("kept", **server.options) as sandbox:
        assert sandbox.files.read("state") == "good\n"


def test_building_in_the_background(server: RunningServer) -> None:
    template = Template().from_template("base").run_cmd("for i in $(seq 250); do echo $i; done")
    build = Template.build_in_background(template, "background", **server.options)
    status = Template.get_build_status(build, **server.options)
    assert status.status.value == "building"
    lines: list[str] = []
    while status.status.value == "building" or status.log_entries:
        status = Template.get_build_status(build, logs_offset=len(lines), **server.options)
        lines += [entry.message for entry in status.log_entries]
        assert len(status.log_entries) <= 100
        time.sleep(0.02)
    assert status.status.value == "ready"
    said = [line for line in lines if line.isdigit()]
    assert said == [str(number) for number in range(1, 251)]


def test_names_and_tags(server: RunningServer) -> None:
    options = server.options
    assert not Template.exists("tagged", **options)
    one = Template().from_template("base").run_cmd("echo 1 > version")
    built = Template.build(one, "tagged:v1", tags=["stable"], **options)
    assert Template.exists("tagged", **options)
    assert Template.alias_exists("tagged:v1", **options)
    assert not Template.exists("tagged:v2", **options)
    two = Template().from_template("base").run_cmd("echo 2 > version")
    Template.build(two, "tagged:v2", **options)

    def version(name: str) -> str:
        with Sandbox.create(name, **options) as sandbox:
            return str(sandbox.files.read("version")).strip()

    assert version("tagged:stable") == "1"
    assert version("tagged:v2") == "2"
    assert version("default/tagged:v1") == "1"
    assert version(f"{built.template_id}:v2") == "2"
    with pytest.raises(Exception, match="no build of it is ready under the tag 'default'"):
        Sandbox.create("tagged", **options)
    moved = Template.assign_tags("tagged:v2", ["stable", "default"], **options)
    assert moved.tags == ["stable", "default"]
    assert version("tagged") == "2"
    tags = {each.tag: each.build_id for each in Template.get_tags("tagged", **options)}
    assert set(tags) == {"v1", "v2", "stable", "default"}
    assert tags["v1"] == built.build_id
    assert tags["stable"] == moved.build_id
    Template.remove_tags("tagged", "stable", **options)
    left = {each.tag for each in Template.get_tags(built.template_id, **options)}
    assert left == {"v1", "v2", "default"}
    for bad in (":x", "tagged:"):
        with pytest.raises(Exception, match="400"):
            Template.assign_tags(bad, "y", **options)


def test_what_it_is_made_with(server: RunningServer) -> None:
    template = Template().from_template("base")
    Template.build(
        template, "sized", cpu_count=1, memory_mb=512, min_free_disk_mb=20480, **server.options
    )
    with Sandbox.create("sized", **server.options) as sandbox:
        info = sandbox.get_info()
        assert (info.cpu_count, info.memory_mb) == (1, 512)
        size = sandbox.commands.run("df --output=size -m / | tail -1").stdout
        assert int(size) > 19_000
    with pytest.raises(BuildException, match="400: cpuCount must be"):
        Template.build(template, "sized", cpu_count=0, **server.options)
    with pytest.raises(BuildException, match="400: memoryMB must be"):
        Template.build(template, "sized", memory_mb=1, **server.options)


async def test_asynchronously(server: RunningServer, context: Path) -> None:
    options = server.options
    template = (
        AsyncTemplate(file_context_path=str(context)).from_template("base").copy("folder", "copied")
    )
    started = template.set_start_cmd("sleep infinity", wait_for_file("/home/user/copied/inner.txt"))
    build = await AsyncTemplate.build(started, "asynchronous", tags=["a"], **options)
    assert await AsyncTemplate.exists("asynchronous:a", **options)
    assert await AsyncTemplate.alias_exists("asynchronous", **options)
    await AsyncTemplate.assign_tags("asynchronous:a", "b", **options)
    tags = await AsyncTemplate.get_tags("asynchronous", **options)
    assert {each.tag for each in tags} == {"a", "b"}
    await AsyncTemplate.remove_tags("asynchronous", "a", **options)
    status = await AsyncTemplate.get_build_status(build, **options)
    assert status.status.value == "ready"
    async with await AsyncSandbox.create("asynchronous:b", **options) as sandbox:
        assert await sandbox.files.read("copied/inner.txt") == "inner\n"
    with pytest.raises(BuildException, match="exit status 1"):
        await AsyncTemplate.build(
            AsyncTemplate().from_template("base").run_cmd("false"), "asynchronous", **options
        )
    ready = AsyncTemplate().from_template("base").set_ready_cmd("true")
    build = await AsyncTemplate.build_in_background(ready, "asynchronous", **options)
    while (await AsyncTemplate.get_build_status(build, **options)).status.value == "building":
        await asyncio.sleep(0.02)


def test_on_another_template(server: RunningServer) -> None:
    below = Template().from_template("base").set_envs({"A": "1"}).set_workdir("/opt/below")
    Template.build(
        below.set_start_cmd("sleep infinity", wait_for_process("sleep")), "below", **server.options
    )
    above = Template().from_template("below:default").run_cmd("pwd > seen; echo $A >> seen")
    Template.build(above, "above", **server.options)
    with Sandbox.create("above", **server.options) as sandbox:
        assert sandbox.files.read("/opt/below/seen") == "/opt/below\n1\n"
        assert "sleep" in sandbox.commands.list()[0].args[-1]


def test_a_dockerfile(server: RunningServer, context: Path) -> None:
    template = Template(file_context_path=str(context)).from_dockerfile(
        "FROM e2bdev/base\n"
        "ARG NAME=world\n"
        "ENV GREETING=hello\n"
        "WORKDIR /srv/app\n"
        "COPY --chown=user:user --chmod=0640 one.txt folder/inner.txt ./\n"
        'RUN echo "$GREETING" > said && ls > listed\n'
        'CMD ["sleep", "infinity"]\n'
    )
    Template.build(template.set_ready_cmd("true"), "from-dockerfile", **server.options)
    with Sandbox.create("from-dockerfile", **server.options) as sandbox:
        assert sandbox.files.read("/srv/app/said") == "hello\n"
        assert sandbox.files.read("/srv/app/listed") == "inner.txt\nlisted\none.txt\nsaid\n"
        assert sandbox.commands.run("stat -c '%U %a' one.txt").stdout == "user 640\n"


def test_files_that_were_not_sent(server: RunningServer) -> None:
    asked = httpx.post(
        f"{server.url}/v3/templates", headers=server.headers, json={"name": "unsent"}
    ).json()
    path = f"{server.url}/v2/templates/{asked['templateID']}/builds/{asked['buildID']}"
    step = {"type": "COPY", "args": ["a", "b", "", ""], "filesHash": "0" * 64}
    body = {"fromTemplate": "base", "steps": [step]}
    assert httpx.post(path, headers=server.headers, json=body).status_code == 202
    status = f"{server.url}/templates/unsent/builds/{asked['buildID']}/status"
    while (said := httpx.get(status, headers=server.headers).json())["status"] == "building":
        time.sleep(0.02)
    assert said["reason"]["step"] == "1"
    assert "not uploaded" in said["reason"]["message"]
    again = httpx.post(path, headers=server.headers, json=body)
    assert again.status_code == 409


def test_links_for_files_hold_for_one_file(server: RunningServer) -> None:
    asked = httpx.post(
        f"{server.url}/v3/templates", headers=server.headers, json={"name": "links"}
    ).json()
    offered = httpx.get(
        f"{server.url}/templates/{asked['templateID']}/files/{'1' * 64}", headers=server.headers
    )
    assert offered.status_code == 201
    assert offered.json()["present"] is False
    url = offered.json()["url"]
    assert httpx.put(url.replace("1" * 64, "2" * 64), content=b"x").status_code == 403
    assert httpx.put(url, content=b"x").status_code == 200
