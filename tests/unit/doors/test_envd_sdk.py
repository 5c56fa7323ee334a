"""The official SDK against the real door and a real agent."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    PtySize,
    TimeoutException,
)
from e2b import Sandbox as SdkSandbox
from e2b.sandbox.filesystem.filesystem import FileType

from atoll.sandboxes.model import Sandbox
from tests.unit.doors.conftest import Doors
from tests.unit.doors.sdk import connect_sdk


@pytest.fixture
def sdk(doors: Doors, sandbox: Sandbox) -> SdkSandbox:
    return connect_sdk(doors, sandbox)


def test_run_streams_and_returns(sdk: SdkSandbox) -> None:
    out: list[str] = []
    result = sdk.commands.run("echo out; echo err >&2; exit 0", on_stdout=out.append)
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert "".join(out) == "out\n"


def test_run_reports_failure(sdk: SdkSandbox) -> None:
    with pytest.raises(CommandExitException) as caught:
        sdk.commands.run("echo so; exit 7")
    assert caught.value.exit_code == 7
    assert caught.value.stdout == "so\n"


def test_envs_and_cwd(sdk: SdkSandbox) -> None:
    result = sdk.commands.run("echo $FROM_CREATE $BOTH; pwd", envs={"BOTH": "call"})
    assert result.stdout == "yes call\n/tmp\n"
    assert sdk.commands.run("pwd", cwd="/usr").stdout == "/usr\n"


def test_large_output_is_whole(sdk: SdkSandbox) -> None:
    result = sdk.commands.run("head -c 20000000 /dev/zero | tr '\\0' x")
    assert len(result.stdout) == 20_000_000
    assert set(result.stdout) == {"x"}


def test_broken_utf8_is_not_the_servers_business(sdk: SdkSandbox) -> None:
    result = sdk.commands.run("head -c 8191 /dev/zero | tr '\\0' a; printf '\\xe2\\x82\\xac'")
    assert result.stdout == "a" * 8191 + "€"


def test_background_stdin_list_kill(sdk: SdkSandbox) -> None:
    handle = sdk.commands.run("cat", background=True, stdin=True)
    assert handle.pid in [each.pid for each in sdk.commands.list()]
    sdk.commands.send_stdin(handle.pid, "hello\n")
    assert next(iter(handle))[0] == "hello\n"
    assert handle.kill() is True
    with pytest.raises(CommandExitException):
        handle.wait()
    assert sdk.commands.kill(handle.pid) is False


def test_stdin_to_its_end(sdk: SdkSandbox) -> None:
    handle = sdk.commands.run("wc -c", background=True, stdin=True)
    sdk.commands.send_stdin(handle.pid, "12345")
    sdk.commands.close_stdin(handle.pid)
    assert handle.wait().stdout.strip() == "5"


def test_stream_input_in_order(sdk: SdkSandbox) -> None:
    handle = sdk.commands.run("cat", background=True, stdin=True)
    pieces = [f"{number}\n" for number in range(300)]
    sdk.commands.stream_input(handle.pid, iter(pieces))
    sdk.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "".join(pieces)


def test_process_survives_disconnect(sdk: SdkSandbox) -> None:
    handle = sdk.commands.run("sleep 0.5; echo after; sleep 0.5", background=True)
    handle.disconnect()
    again = sdk.commands.connect(handle.pid)
    assert again.wait().stdout == "after\n"


def test_connect_to_unknown_process(sdk: SdkSandbox) -> None:
    with pytest.raises(NotFoundException):
        sdk.commands.connect(2**22 - 1)


def test_timeout_leaves_the_process(sdk: SdkSandbox) -> None:
    with pytest.raises(TimeoutException):
        sdk.commands.run("exec -a survivor sleep 20", timeout=0.3)
    left = [each for each in sdk.commands.list() if "survivor" in " ".join(each.args)]
    assert len(left) == 1
    assert sdk.commands.kill(left[0].pid)


def test_wrong_user(sdk: SdkSandbox) -> None:
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        sdk.commands.run("true", user="nobody-here")


def test_pty(sdk: SdkSandbox) -> None:
    handle = sdk.pty.create(PtySize(rows=30, cols=90))
    sdk.pty.send_stdin(handle.pid, b"stty size; exit 3\n")
    seen = bytearray()
    with pytest.raises(CommandExitException) as caught:
        handle.wait(on_pty=seen.extend)
    assert caught.value.exit_code == 3
    assert b"30 90" in seen
    handle = sdk.pty.create(PtySize(rows=30, cols=90))
    sdk.pty.resize(handle.pid, PtySize(rows=11, cols=22))
    sdk.pty.send_stdin(handle.pid, b"stty size; exit\n")
    seen.clear()
    handle.wait(on_pty=seen.extend)
    assert b"11 22" in seen


def test_kill_of_the_sandbox_drops_the_stream(
    doors: Doors, sandbox: Sandbox, sdk: SdkSandbox
) -> None:
    handle = sdk.commands.run("echo started; sleep 30", background=True)
    timer = threading.Timer(0.3, lambda: doors.end(sandbox))
    timer.start()
    began = time.monotonic()
    with pytest.raises(TimeoutException, match="sandbox was killed or reached its end of life"):
        handle.wait()
    assert time.monotonic() - began < 2
    assert sdk.is_running() is False
    timer.join()


def test_files_round_trip(sdk: SdkSandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "er" / "hallo.txt")
    written = sdk.files.write(path, "grüße")
    assert written.path == path
    assert sdk.files.read(path) == "grüße"
    assert sdk.files.read(path, format="bytes") == "grüße".encode()
    assert b"".join(sdk.files.read(path, format="stream")) == "grüße".encode()
    assert sdk.files.read(path, gzip=True) == "grüße"
    info = sdk.files.get_info(path)
    assert (info.size, info.type, info.permissions) == (7, FileType.FILE, "-rw-r--r--")
    assert sdk.files.exists(path)
    assert [each.name for each in sdk.files.list(str(tmp_path / "deep"), depth=2)] == [
        "er",
        "hallo.txt",
    ]
    moved = str(tmp_path / "moved")
    assert sdk.files.rename(path, moved).path == moved
    sdk.files.remove(moved)
    assert not sdk.files.exists(moved)


def test_many_files_at_once(sdk: SdkSandbox, tmp_path: Path) -> None:
    names = ['a"b', "back\\slash", "per%cent", "neue\nzeile", "ümläut", "semi;colon", "x=y"]
    entries = [{"path": str(tmp_path / name), "data": name} for name in names]
    written = sdk.files.write_files(entries)  # type: ignore[arg-type]
    assert [each.path for each in written] == [str(tmp_path / name) for name in names]
    for name in names:
        assert (tmp_path / name).read_text() == name


def test_metadata(sdk: SdkSandbox, tmp_path: Path) -> None:
    path = str(tmp_path / "tagged")
    written = sdk.files.write(path, "x", metadata={"Author": "me", "purpose": "a b"})
    assert written.metadata == {"author": "me", "purpose": "a b"}
    assert sdk.files.get_info(path).metadata == {"author": "me", "purpose": "a b"}
    assert not sdk.files.write(path, "y").metadata


@pytest.mark.parametrize("size", [0, 1, 1023, 65535, 65536, 65537, 1 << 20, (5 << 20) + 7])
# The SDK compresses raw uploads only.
@pytest.mark.parametrize(("gzip", "octets"), [(False, False), (False, True), (True, True)])
def test_sizes(sdk: SdkSandbox, tmp_path: Path, size: int, gzip: bool, octets: bool) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    path = tmp_path / "data"
    sdk.files.write(str(path), data, gzip=gzip, use_octet_stream=octets)
    assert path.read_bytes() == data
    assert sdk.files.read(str(path), format="bytes", gzip=gzip) == data


def test_streamed_upload(sdk: SdkSandbox, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(50):
            yield str(number).encode() * 1000

    sdk.files.write(str(tmp_path / "s"), pieces())
    assert (tmp_path / "s").read_bytes() == b"".join(pieces())


def test_file_errors(sdk: SdkSandbox, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundException):
        sdk.files.read(str(tmp_path / "missing"))
    with pytest.raises(InvalidArgumentException, match="is a directory"):
        sdk.files.read(str(tmp_path))
    with pytest.raises(FileNotFoundException):
        sdk.files.list(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundException):
        sdk.files.rename(str(tmp_path / "missing"), str(tmp_path / "b"))
    with pytest.raises(AuthenticationException):
        sdk.files.read(str(tmp_path / "missing"), user="nobody-here")
    with pytest.raises(FileNotFoundException):
        sdk.files.get_info(str(tmp_path / "missing"))
    assert sdk.files.make_dir(str(tmp_path / "d")) is True
    assert sdk.files.make_dir(str(tmp_path / "d")) is False
    sdk.files.remove(str(tmp_path / "missing"))


def test_symlink(sdk: SdkSandbox, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to("target")
    info = sdk.files.get_info(str(tmp_path / "link"))
    assert info.symlink_target == str(tmp_path / "target")
    (tmp_path / os_name(b"bad\xff")).write_text("")
    assert "bad\ufffd" in [each.name for each in sdk.files.list(str(tmp_path))]


def os_name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that holds a mebibyte."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("octets", [False, True])
@pytest.mark.parametrize("size", [2 << 20, 60 << 20])
def test_full_disk(sdk: SdkSandbox, small_disk: Path, size: int, octets: bool) -> None:
    with pytest.raises(NotEnoughSpaceException, match="not enough disk space"):
        sdk.files.write(str(small_disk / "x"), bytes(size), use_octet_stream=octets)
    assert sdk.commands.run("echo still there").stdout == "still there\n"


def test_full_disk_by_a_stream(sdk: SdkSandbox, small_disk: Path) -> None:
    pieces = (bytes(1 << 16) for _ in range(1000))
    with pytest.raises(NotEnoughSpaceException, match="not enough disk space"):
        sdk.files.write(str(small_disk / "x"), pieces)


def test_gzip_bomb_meets_the_disk_limit(sdk: SdkSandbox, small_disk: Path) -> None:
    with pytest.raises(NotEnoughSpaceException, match="not enough disk space"):
        sdk.files.write(str(small_disk / "x"), bytes(100 << 20), gzip=True)


def test_unsecured_sandbox(doors: Doors, add_sandbox: Callable[..., Sandbox]) -> None:
    open_sandbox = add_sandbox(access_token=None)
    sdk = connect_sdk(doors, open_sandbox)
    assert sdk.commands.run("echo hi").stdout == "hi\n"
    assert sdk.is_running()


def test_wrong_token(doors: Doors, sandbox: Sandbox, tmp_path: Path) -> None:
    sdk = connect_sdk(doors, replace(sandbox, access_token="0" * 32))
    with pytest.raises(AuthenticationException):
        sdk.commands.run("true")
    with pytest.raises(AuthenticationException):
        sdk.commands.list()
    with pytest.raises(AuthenticationException):
        sdk.files.read(str(tmp_path))
    assert sdk.is_running()
