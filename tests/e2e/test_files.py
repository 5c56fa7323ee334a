"""`sandbox.files`, through the official SDK; and paths that try to leave the sandbox."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from pathlib import Path

import httpx
import pytest
from e2b import FileType, Sandbox
from e2b.exceptions import (
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    SandboxException,
)

from tests.server import RunningServer


def routed(sandbox: Sandbox) -> dict[str, str]:
    """Headers of a plain request to the sandbox's file routes."""
    return {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": str(sandbox._envd_access_token),
    }


@pytest.mark.parametrize(
    "content", ["plain", "", "ünïcödé €", "a" * 100_000, "line\r\nline\n"], ids=len
)
def test_text_comes_back(sandbox: Sandbox, content: str) -> None:
    info = sandbox.files.write("file.txt", content)
    assert info.path == "/home/user/file.txt"
    assert info.name == "file.txt"
    assert sandbox.files.read("file.txt") == content


def test_bytes_and_streams(sandbox: Sandbox) -> None:
    data = os.urandom(3_000_000)
    sandbox.files.write("a.bin", data)
    sandbox.files.write("b.bin", io.BytesIO(data))
    assert bytes(sandbox.files.read("a.bin", format="bytes")) == data
    assert b"".join(sandbox.files.read("b.bin", format="stream")) == data


def test_many_files_in_one_call(sandbox: Sandbox) -> None:
    files = [{"path": f"many/dir {n}/f{n}.txt", "data": f"content {n}"} for n in range(20)]
    written = sandbox.files.write_files(files)  # type: ignore[arg-type]
    assert [each.path for each in written] == [f"/home/user/{each['path']}" for each in files]
    for each in files:
        assert sandbox.files.read(each["path"]) == each["data"]


def test_gzip_both_ways(server: RunningServer, sandbox: Sandbox) -> None:
    text = "compress me " * 10_000
    sandbox.files.write("gz.txt", text, gzip=True)
    assert sandbox.files.read("gz.txt") == text
    assert sandbox.files.read("gz.txt", gzip=True) == text
    headers = {**routed(sandbox), "Accept-Encoding": "gzip"}
    with httpx.stream("GET", f"{server.url}/files?path=gz.txt", headers=headers) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())).decode() == text


def test_new_files_and_directories_belong_to_the_user(sandbox: Sandbox) -> None:
    sandbox.files.write("/home/user/deep/er/file", "x")
    told = sandbox.commands.run("stat -c '%U:%G %a' deep deep/er deep/er/file").stdout
    assert told.splitlines() == ["user:user 755", "user:user 755", "user:user 644"]
    sandbox.files.write("/root/file", "x", user="root")
    told = sandbox.commands.run("sudo stat -c '%U:%G %a' /root/file").stdout
    assert told == "root:root 644\n"


def test_overwriting_keeps_mode_and_owner(sandbox: Sandbox) -> None:
    sandbox.files.write("script.sh", "old and longer")
    sandbox.commands.run("chmod 755 script.sh")
    sandbox.files.write("script.sh", "new")
    assert sandbox.commands.run("stat -c %a script.sh; cat script.sh").stdout == "755\nnew"


def test_info_exists_rename_remove(sandbox: Sandbox) -> None:
    files = sandbox.files
    files.write("one.txt", "12345")
    info = files.get_info("one.txt")
    assert (info.name, info.path, info.size) == ("one.txt", "/home/user/one.txt", 5)
    assert (info.type, info.mode, info.permissions) == (FileType.FILE, 0o644, "-rw-r--r--")
    assert (info.owner, info.group, info.symlink_target) == ("user", "user", None)
    assert files.exists("one.txt")
    assert files.rename("one.txt", "two.txt").path == "/home/user/two.txt"
    assert not files.exists("one.txt")
    files.remove("two.txt")
    assert not files.exists("two.txt")
    files.remove("two.txt")  # what is not there is removed already
    with pytest.raises(FileNotFoundException):
        files.get_info("two.txt")
    with pytest.raises(FileNotFoundException):
        files.read("two.txt")
    with pytest.raises(FileNotFoundException):
        files.rename("two.txt", "three.txt")


def test_directories(sandbox: Sandbox) -> None:
    files = sandbox.files
    assert files.make_dir("tree/branch") is True
    assert files.make_dir("tree/branch") is False
    files.write("tree/leaf", "x")
    files.write("tree/branch/leaf", "y")
    assert {each.path for each in files.list("tree")} == {
        "/home/user/tree/branch",
        "/home/user/tree/leaf",
    }
    assert {each.name for each in files.list("tree", depth=2)} == {"branch", "leaf"}
    assert len(files.list("tree", depth=2)) == 3
    assert files.get_info("tree").type == FileType.DIR
    with pytest.raises(InvalidArgumentException):
        files.list("tree/leaf")
    with pytest.raises(FileNotFoundException):
        files.list("no-tree")
    with pytest.raises(InvalidArgumentException, match="is a directory"):
        files.read("tree")
    with pytest.raises(InvalidArgumentException):
        files.write("tree", "x")
    files.remove("tree")
    assert not files.exists("tree")


def test_symlinks(sandbox: Sandbox) -> None:
    sandbox.files.write("target.txt", "t")
    sandbox.commands.run("ln -s target.txt link; ln -s /nowhere broken; ln -s . loop")
    link = sandbox.files.get_info("link")
    assert (link.type, link.symlink_target) == (FileType.SYMLINK, "/home/user/target.txt")
    assert sandbox.files.read("link") == "t"
    assert {each.name for each in sandbox.files.list(".")} >= {"link", "broken", "loop"}


def test_what_the_user_may_not(sandbox: Sandbox) -> None:
    for path in ("/root/secret", "/etc/shadow"):
        with pytest.raises(SandboxException):
            sandbox.files.read(path)
    with pytest.raises(SandboxException):
        sandbox.files.write("/etc/passwd", "mine")
    assert "root:x:0:0" in sandbox.files.read("/etc/passwd")
    assert "root" in sandbox.files.read("/etc/shadow", user="root")


@pytest.mark.parametrize(
    "path",
    [
        "../../../../../../../../etc/hostname",
        "/proc/1/root/etc/hostname",
        "/proc/self/root/etc/hostname",
        "/proc/1/cwd/etc/hostname",
        "/home/user/symlink-up/etc/hostname",
    ],
)
def test_every_path_stays_inside(sandbox: Sandbox, path: str) -> None:
    """However a path is written, it names a file of the sandbox, for the sandbox's root too."""
    sandbox.commands.run("ln -sfn / symlink-up")
    assert sandbox.files.read(path, user="root").strip() == "e2b.local"
    assert Path("/etc/hostname").read_text().strip() != "e2b.local"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "fifo", "/proc/kmsg"])
def test_what_is_not_a_file_does_not_hang(sandbox: Sandbox, path: str) -> None:
    sandbox.commands.run("mkfifo fifo 2>/dev/null || true")
    with pytest.raises(SandboxException):
        sandbox.files.read(path, user="root", request_timeout=10)
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


def test_an_upload_larger_than_the_disk(server: RunningServer, sandbox: Sandbox) -> None:
    free = int(sandbox.commands.run("df --output=avail -B1 / | tail -1").stdout)
    sandbox.commands.run(f"fallocate -l {free - (50 << 20)} filler")
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("big", os.urandom(100 << 20))
    assert not sandbox.files.exists("big")
    sandbox.commands.run("rm filler")
    sandbox.files.write("small", "fits again")


def test_100_mb_and_its_checksum(sandbox: Sandbox) -> None:
    data = os.urandom(100 << 20)
    sandbox.files.write("large", data)
    told = sandbox.commands.run("sha256sum large").stdout.split()[0]
    assert told == hashlib.sha256(data).hexdigest()
    assert bytes(sandbox.files.read("large", format="bytes")) == data


def test_the_token_is_wanted(server: RunningServer, sandbox: Sandbox) -> None:
    url = f"{server.url}/files?path=/etc/hostname"
    for token in (None, "", "wrong"):
        headers = routed(sandbox)
        del headers["X-Access-Token"]
        if token is not None:
            headers["X-Access-Token"] = token
        assert httpx.get(url, headers=headers).status_code == 401
    with Sandbox.create(**server.options) as other:
        stolen = {**routed(sandbox), "X-Access-Token": str(other._envd_access_token)}
        assert httpx.get(url, headers=stolen).status_code == 401


def test_signed_urls(server: RunningServer, sandbox: Sandbox) -> None:
    sandbox.files.write("signed.txt", "by signature")
    url = sandbox.download_url("signed.txt", use_signature_expiration=60)
    id_and_port = {key: value for key, value in routed(sandbox).items() if "Token" not in key}
    assert httpx.get(url, headers=id_and_port).text == "by signature"
    tampered = url.replace("signed.txt", "other.txt")
    assert httpx.get(tampered, headers=id_and_port).status_code == 401
