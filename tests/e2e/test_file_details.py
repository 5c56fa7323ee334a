"""Files in detail: metadata, ranges, joining, very large ones, what a user may know."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox
from e2b.exceptions import InvalidArgumentException
from e2b.sandbox.filesystem.filesystem import WriteEntry

from tests.e2e.test_files import routed
from tests.server import RunningServer

METADATA = {"author": "mish", "purpose": "upload"}


@pytest.fixture
def http(server: RunningServer, sandbox: Sandbox) -> Iterator[httpx.Client]:
    """Plain requests to the sandbox's file routes."""
    with httpx.Client(base_url=server.url, headers=routed(sandbox), timeout=120) as client:
        yield client


@pytest.mark.parametrize("raw", [False, True], ids=["form", "raw"])
def test_metadata_is_told_everywhere(sandbox: Sandbox, raw: bool) -> None:
    files = sandbox.files
    written = files.write("dir/file", "x", metadata=METADATA, use_octet_stream=raw)
    assert written.metadata == METADATA
    assert files.get_info("dir/file").metadata == METADATA
    assert [each.metadata for each in files.list("dir")] == [METADATA]
    assert files.rename("dir/file", "dir/other").metadata == METADATA
    assert files.get_info("dir/other").metadata == METADATA
    overwritten = files.write("dir/other", "y", metadata={"only": "this"}, use_octet_stream=raw)
    assert overwritten.metadata == {"only": "this"}
    assert files.write("dir/other", "z", use_octet_stream=raw).metadata is None
    assert files.get_info("dir/other").metadata is None


def test_metadata_of_many_files(sandbox: Sandbox) -> None:
    entries = [WriteEntry(path=f"many/{n}", data="x") for n in range(3)]
    assert [each.metadata for each in sandbox.files.write_files(entries, metadata=METADATA)] == [
        METADATA
    ] * 3


def test_metadata_is_extended_attributes(sandbox: Sandbox) -> None:
    sandbox.files.write("file", "x", metadata={"author": "mish"})
    shown = sandbox.commands.run(
        "python3 -c \"import os; print(os.getxattr('file', 'user.e2b.author'));"
        "os.setxattr('file', 'user.e2b.added', b'inside'); os.setxattr('file', 'user.x', b'y')\""
    )
    assert shown.stdout == "b'mish'\n"
    assert sandbox.files.get_info("file").metadata == {"author": "mish", "added": "inside"}


def test_more_attributes_than_an_upload_may_have(sandbox: Sandbox) -> None:
    """What a program piles on one file hides neither that nor the others."""
    sandbox.commands.run("mkdir pile; touch pile/full pile/other")
    sandbox.files.write(
        "fill.py",
        "import os\ntry:\n"
        "  for n in range(1000): os.setxattr('pile/full', f'user.e2b.{n:03}', b'')\n"
        "except OSError: print(n)\n",
    )
    count = int(sandbox.commands.run("python3 fill.py").stdout)
    assert count > 64
    full, other = sandbox.files.list("pile")
    assert full.metadata == {f"{n:03}": "" for n in range(count)}
    assert other.metadata is None
    assert sandbox.files.get_info("pile/full").metadata == full.metadata


@pytest.mark.parametrize(
    "metadata",
    [{"bad key": "x"}, {"": "x"}, {"good": "bad\nvalue"}, {"key\n": "x"}, {"good": "ü"}],
    ids=str,
)
def test_bad_metadata_writes_nothing(sandbox: Sandbox, metadata: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write("file", "x", metadata=metadata)
    assert not sandbox.files.exists("file")


def test_what_exists_where_the_user_may_not_look(sandbox: Sandbox) -> None:
    """E2B's agent is root when it is asked, so it knows."""
    assert sandbox.files.exists("/root/.bashrc")
    assert sandbox.files.get_info("/root/.bashrc").owner == "root"
    assert not sandbox.files.exists("/root/missing")
    assert not sandbox.files.exists("/etc/hostname/below")


def test_owners_modes_and_times(sandbox: Sandbox) -> None:
    sandbox.commands.run(
        "touch -d @1000000000.5 file; chmod 4751 file; mkdir dir; chmod 1777 dir; ln -s file link"
    )
    file = sandbox.files.get_info("file")
    assert (file.mode, file.permissions) == (0o751, "urwxr-x--x")
    assert file.modified_time.timestamp() == 1000000000.5
    assert (file.owner, file.group) == ("user", "user")
    assert sandbox.files.get_info("dir").permissions == "dtrwxrwxrwx"
    link = sandbox.files.get_info("link")
    assert (link.symlink_target, link.permissions) == ("/home/user/file", "Lrwxrwxrwx")
    assert link.mode == 0o751
    assert sandbox.files.get_info("/etc/hostname").owner == "root"


def test_ranges_and_dates(sandbox: Sandbox, http: httpx.Client) -> None:
    sandbox.files.write("digits", "0123456789")
    url = "/files?path=digits"
    whole = http.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    modified = whole.headers["last-modified"]
    part = http.get(url, headers={"Range": "bytes=2-4", "If-Range": modified})
    assert (part.status_code, part.text) == (206, "234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    beyond = http.get(url, headers={"Range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    assert http.get(url, headers={"If-Modified-Since": modified}).status_code == 304
    sandbox.commands.run("touch -d @2000000000 digits")
    changed = http.get(url, headers={"Range": "bytes=2-4", "If-Range": modified})
    assert (changed.status_code, changed.text) == (200, "0123456789")


def test_compose(sandbox: Sandbox, http: httpx.Client) -> None:
    for n in range(3):
        sandbox.files.write(f"parts/{n}", f"part {n}\n")
    sources = [f"parts/{n}" for n in range(3)]
    body = {"source_paths": sources, "destination": "~/whole/file", "username": "user"}
    answer = http.post("/files/compose", json=body)
    assert answer.json() == {"name": "file", "type": "file", "path": "/home/user/whole/file"}
    assert sandbox.files.read("whole/file") == "part 0\npart 1\npart 2\n"
    assert sandbox.files.get_info("whole/file").owner == "user"
    assert sandbox.files.list("parts") == []
    again = http.post("/files/compose", json=body)
    assert (again.status_code, again.json()["code"]) == (404, 404)


def test_no_space_is_507(sandbox: Sandbox, http: httpx.Client) -> None:
    free = int(sandbox.commands.run("df --output=avail -B1 / | tail -1").stdout)
    sandbox.commands.run(f"fallocate -l {free - (20 << 20)} filler; fallocate -l 15M part")
    answer = http.post(
        "/files?path=big",
        content=bytes(40 << 20),
        headers={"Content-Type": "application/octet-stream"},
    )
    assert (answer.status_code, answer.json()["code"]) == (507, 507)
    assert "not enough disk space available" in answer.json()["message"]
    answer = http.post(
        "/files/compose", json={"source_paths": ["part", "part"], "destination": "whole"}
    )
    assert (answer.status_code, answer.json()["code"]) == (507, 507)
    assert {each.name for each in sandbox.files.list(".")} >= {"filler", "part"}
    assert not sandbox.files.exists("whole")
    assert not [each for each in sandbox.files.list(".") if "composing" in each.name]


def peak(status: str) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def test_a_gigabyte_costs_no_memory(
    server: RunningServer, sandbox: Sandbox, http: httpx.Client
) -> None:
    """Neither in the server nor in the agent, whichever way."""
    size, chunk = 1 << 30, bytes(1 << 20)
    process = Path(f"/proc/{server.process.pid}")
    (process / "clear_refs").write_text("5")  # The peak counts from now on.
    before = peak((process / "status").read_text())
    agent_before = peak(sandbox.files.read("/proc/1/status", user="root"))
    sandbox.commands.run(f"truncate -s {size} sparse")
    digest, received = hashlib.sha256(), 0
    with http.stream("GET", "/files?path=sparse") as answer:
        assert answer.headers["content-length"] == str(size)
        for piece in answer.iter_bytes():
            received += len(piece)
    assert received == size
    part = size // 4
    for _ in range(part >> 20):
        digest.update(chunk)
    http.post(
        "/files?path=uploaded",
        content=(chunk for _ in range(part >> 20)),
        headers={"Content-Type": "application/octet-stream"},
    ).raise_for_status()
    told = sandbox.commands.run("sha256sum uploaded; rm uploaded", timeout=120).stdout.split()[0]
    assert told == digest.hexdigest()
    assert peak((process / "status").read_text()) - before < 64 << 20
    assert peak(sandbox.files.read("/proc/1/status", user="root")) - agent_before < 8 << 20
