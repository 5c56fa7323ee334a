"""Builds of enemies: archives, steps that never end, output without end."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import BuildException, Sandbox, Template

from tests.server import RunningServer, link_templates, run_server


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with little patience."""
    store = link_templates(tmp_path_factory.mktemp("store") / "templates")
    data_dir = tmp_path_factory.mktemp("strict")
    with run_server(
        data_dir,
        pool_size=0,
        template_dir=str(store),
        build_step_seconds=2,
        ready_seconds=2,
        max_upload_mb=1,
    ) as running:
        yield running
    running.assert_nothing_left()


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def pack(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def build(
    server: RunningServer, archive: bytes, source: str = "*", destination: str = "/opt/into/"
) -> dict[str, Any]:
    """Build a template that copies from an archive, as its status says in the end."""
    name = os.urandom(32).hex()
    asked = httpx.post(
        f"{server.url}/v3/templates", headers=server.headers, json={"name": "hostile"}
    ).json()
    one = f"templates/{asked['templateID']}"
    link = httpx.get(f"{server.url}/{one}/files/{name}", headers=server.headers).json()["url"]
    assert httpx.put(link, content=archive).status_code == 200
    step = {"type": "COPY", "args": [source, destination, "", ""], "filesHash": name}
    body = {"fromTemplate": "base", "steps": [step]}
    path = f"{one}/builds/{asked['buildID']}"
    httpx.post(f"{server.url}/v2/{path}", headers=server.headers, json=body).raise_for_status()
    while True:
        status: dict[str, Any] = httpx.get(
            f"{server.url}/{path}/status", headers=server.headers
        ).json()
        if status["status"] in ("ready", "error"):
            return status
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("../out", b"x")], "outside itself"),
        ([member("a/../../out", b"x")], "outside itself"),
        ([member("/etc/passwd", b"x")], "absolute path"),
        (
            [member("a", type=tarfile.SYMTYPE, linkname="/etc"), member("a/passwd", b"x")],
            "through its own link",
        ),
        ([member("a", type=tarfile.LNKTYPE, linkname="/etc/shadow")], "absolute path"),
        ([member("a", type=tarfile.LNKTYPE, linkname="../x")], "outside itself"),
        ([member("a", type=tarfile.LNKTYPE, linkname="b")], "not in the archive"),
        ([member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=1)], "neither a file"),
        ([member("a", type=tarfile.BLKTYPE, devmajor=7, devminor=0)], "neither a file"),
        ([member("a", type=tarfile.FIFOTYPE)], "neither a file"),
    ],
)
def test_archives_that_lead_elsewhere(
    server: RunningServer, members: list[tuple[tarfile.TarInfo, bytes]], reason: str
) -> None:
    status = build(server, pack(*members))
    assert status["status"] == "error"
    assert reason in status["reason"]["message"]
    assert status["reason"]["step"] == "1"


def test_archives_that_are_none(server: RunningServer) -> None:
    whole = pack(member("a", b"x" * 100_000))
    for content in (b"", b"no archive", whole[: len(whole) // 2], gzip.compress(b"\1" * 2000)):
        assert build(server, content)["status"] == "error"


def test_sources_that_lead_elsewhere(server: RunningServer) -> None:
    archive = pack(member("a", b"x"))
    assert "leads out" in build(server, archive, "../a")["reason"]["message"]
    assert "no file matches" in build(server, archive, "b")["reason"]["message"]
    assert build(server, archive, "/a")["status"] == "ready"


def test_a_bomb_is_not_unpacked(strict: RunningServer) -> None:
    """It says that it holds eight gigabytes; what was sent is a hundred kilobytes."""
    size, piece = 8 << 30, bytes(1 << 26)
    head = tarfile.TarInfo("bomb")
    head.size = size
    # Each gzip member stands for itself, so that one compressed piece can be repeated.
    inner = gzip.compress(head.tobuf()) + gzip.compress(piece) * 2
    status = build(strict, inner)
    assert status["status"] == "error"
    assert "holds more than the server lets it" in status["reason"]["message"]


def test_a_step_that_never_ends(strict: RunningServer) -> None:
    started = time.monotonic()
    with pytest.raises(BuildException, match="took longer than 2 s"):
        Template.build(
            Template().from_template("base").run_cmd("sleep 600"), "endless", **strict.options
        )
    assert time.monotonic() - started < 10


def test_what_is_never_ready(strict: RunningServer) -> None:
    template = Template().from_template("base")
    final = template.set_start_cmd("echo starting; sleep 600", "false")
    with pytest.raises(BuildException, match="not ready within 2 s: starting"):
        Template.build(final, "unready", **strict.options)


def test_files_that_are_too_large(strict: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(2 << 20))
    template = Template(file_context_path=str(tmp_path)).from_template("base").copy("large", "/")
    with pytest.raises(Exception, match="413"):
        Template.build(template, "large", **strict.options)
    assert not list((strict.data_dir / "uploads").rglob(".coming-*"))


def test_output_without_end(server: RunningServer) -> None:
    template = Template().from_template("base").run_cmd("seq 30000; head -c 9999999 /dev/zero")
    lines: list[str] = []
    Template.build(
        template, "loud", on_build_logs=lambda line: lines.append(line.message), **server.options
    )
    assert len(lines) < 20_100
    assert any("the log is full" in line for line in lines)
    assert max(map(len, lines)) <= 4200


def test_a_build_can_do_no_more_than_a_sandbox(server: RunningServer) -> None:
    """It is one: no way to the host, to other sandboxes or to the server."""
    gate = "$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')"
    template = (
        Template()
        .from_template("base")
        .run_cmd(f"! curl -sm 2 http://{gate}:{server.port}/health", user="root")
        .run_cmd("! mount -t tmpfs none /mnt && ! mknod /tmp/x b 7 0", user="root")
        .run_cmd("test $(ls /proc | grep -c '^[0-9]') -lt 10", user="root")
    )
    Template.build(template, "confined", **server.options)


def test_passwords_of_registries_are_nowhere(server: RunningServer, tmp_path: Path) -> None:
    secret = "hunter2-" + os.urandom(8).hex()
    template = Template().from_image("127.0.0.1:1/private:latest", username="me", password=secret)
    lines: list[str] = []
    with pytest.raises(BuildException) as caught:
        Template.build(
            template, "private", on_build_logs=lambda e: lines.append(e.message), **server.options
        )
    assert secret not in str(caught.value)
    assert secret not in "".join(lines)
    assert secret not in server.log()
    for path in server.data_dir.rglob("*"):
        if path.is_file() and path.stat().st_size < 64 << 20 and "isolation" not in path.parts:
            assert secret.encode() not in path.read_bytes()


def test_a_sandbox_made_of_a_hostile_layer(server: RunningServer) -> None:
    """A layer whose paths lead out of it: only the sandboxes that stand on it see where."""
    template = (
        Template()
        .from_template("base")
        .run_cmd("rm -rf /srv && ln -s /../../../../../../tmp /srv", user="root")
        .set_workdir("/srv/made")
    )
    Template.build(template, "links", **server.options)
    with Sandbox.create("links", **server.options) as sandbox:
        assert sandbox.files.exists("/tmp/made")
    assert not Path("/tmp/made").exists()


async def test_many_builds_at_once(server: RunningServer) -> None:
    """However close together they come, no more than so many of a team wait."""
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
        asked = [await client.post("/v3/templates", json={"name": "many"}) for _ in range(30)]
        template = asked[0].json()["templateID"]
        body = {"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["sleep 600"]}]}
        answers = await asyncio.gather(
            *(
                client.post(f"/v2/templates/{template}/builds/{each.json()['buildID']}", json=body)
                for each in asked
            )
        )
        assert Counter(answer.status_code for answer in answers) == {202: 20, 429: 10}
        assert (await client.delete(f"/templates/{template}", timeout=30)).status_code == 204
