"""Volumes through the official SDK."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, AsyncVolume, Sandbox, Volume
from e2b.exceptions import (
    NotFoundException,
    RateLimitException,
    SandboxException,
    VolumeException,
)

from tests.server import RunningServer, run_server

SIZE_MB = 64
MOST = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with small volumes; when it has stopped, nothing is mounted any more."""
    data_dir: Path = tmp_path_factory.mktemp("volumes")
    with run_server(data_dir, pool_size=0, volume_size_mb=SIZE_MB, max_volumes=MOST) as running:
        yield running
    running.assert_nothing_left()


@pytest.fixture(scope="module")
def variables(server: RunningServer) -> dict[str, str]:
    """What a user exports."""
    found: dict[str, str] = json.loads(server.atoll("env", "--json").stdout)
    assert "E2B_VOLUME_API_URL" in found
    return found


@pytest.fixture(autouse=True)
def environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def volume() -> Iterator[Volume]:
    """An empty volume."""
    made = Volume.create(new_name())
    yield made
    Volume.destroy(made.volume_id)


def new_name() -> str:
    return f"test_{secrets.token_hex(6)}"


def content(server: RunningServer, volume: Volume, **options: Any) -> httpx.Client:
    """A plain client of a volume's content."""
    token = options.pop("token", volume.token)
    return httpx.Client(
        base_url=f"{server.url}/volumecontent/{volume.volume_id}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    )


def test_the_life_of_a_volume() -> None:
    name = new_name()
    made = Volume.create(name)
    assert made.name == name
    info = Volume.get_info(made.volume_id)
    assert (info.volume_id, info.name, info.token) == (made.volume_id, name, made.token)
    assert info.domain  # else the SDK would send the token to E2B's cloud
    assert (made.volume_id, name) in [(each.volume_id, each.name) for each in Volume.list()]
    again = Volume.connect(made.volume_id)
    assert again.token == made.token
    again.write_file("file", "text")
    with pytest.raises(VolumeException, match="already exists"):
        Volume.create(name)
    assert Volume.destroy(made.volume_id)
    assert not Volume.destroy(made.volume_id)
    with pytest.raises(NotFoundException):
        Volume.get_info(made.volume_id)
    assert made.volume_id not in [each.volume_id for each in Volume.list()]
    with pytest.raises(NotFoundException):
        again.read_file("file")
    # The name is free again, and what has it is empty.
    another = Volume.create(name)
    assert another.list("/") == []
    Volume.destroy(another.volume_id)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "ä", "x" * 129])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(VolumeException, match="no name for a volume"):
        Volume.create(name)


def test_files(volume: Volume) -> None:
    written = volume.write_file("/hello.txt", "hello wörld")
    assert (written.name, written.path, written.size) == ("hello.txt", "/hello.txt", 12)
    assert (written.type, written.uid, written.gid, written.mode) == ("file", 1000, 1000, 0o666)
    assert volume.read_file("hello.txt") == "hello wörld"
    assert volume.read_file("/hello.txt", format="bytes") == "hello wörld".encode()
    assert b"".join(volume.read_file("hello.txt", format="stream")) == "hello wörld".encode()
    assert volume.exists("hello.txt")
    assert not volume.exists("other")
    # Overwritten, it keeps owner and mode.
    volume.update_metadata("hello.txt", uid=0, gid=5, mode=0o600)
    again = volume.write_file("hello.txt", b"")
    assert (again.size, again.uid, again.gid, again.mode) == (0, 0, 5, 0o600)
    assert volume.read_file("hello.txt") == ""
    assert again.mtime >= written.mtime
    # An existing file is kept when asked for.
    with pytest.raises(VolumeException, match="exists already"):
        volume.write_file("hello.txt", "x", force=False)
    mine = volume.write_file("deep/er/file", "x", uid=0, gid=0, mode=0o640, force=True)
    assert (mine.uid, mine.mode) == (0, 0o640)
    assert volume.get_info("deep").uid == 0
    volume.remove("hello.txt")
    for gone in ("hello.txt", "missing/file", "deep/er/file/below"):
        with pytest.raises(NotFoundException):
            volume.read_file(gone)
        with pytest.raises(NotFoundException):
            volume.remove(gone)
    with pytest.raises(NotFoundException):
        volume.write_file("missing/file", "x")
    with pytest.raises(VolumeException, match="is a directory"):
        volume.write_file("deep", "x")
    with pytest.raises(VolumeException, match="is not a file"):
        volume.read_file("deep")


def test_directories(volume: Volume) -> None:
    made = volume.make_dir("a")
    assert (made.type, made.uid, made.mode, made.path) == ("directory", 1000, 0o777, "/a")
    with pytest.raises(VolumeException, match="exists already"):
        volume.make_dir("a")
    assert volume.make_dir("a", force=True).path == "/a"
    with pytest.raises(NotFoundException):
        volume.make_dir("b/c")
    assert volume.make_dir("b/c/d", uid=7, gid=8, mode=0o750, force=True).mode == 0o750
    assert volume.get_info("b").uid == 7
    volume.write_file("b/file", "x")
    assert [each.path for each in volume.list("/")] == ["/a", "/b"]
    assert [each.path for each in volume.list("/", depth=2)] == ["/a", "/b", "/b/c", "/b/file"]
    assert [each.path for each in volume.list("/b/", depth=10)] == ["/b/c", "/b/c/d", "/b/file"]
    for depth in (0, 11):
        if depth:
            with pytest.raises(VolumeException, match="depth must be"):
                volume.list("/", depth=depth)
    with pytest.raises(VolumeException, match="not a directory"):
        volume.list("b/file")
    with pytest.raises(NotFoundException):
        volume.list("missing")
    with pytest.raises(VolumeException, match="root"):
        volume.remove("/")
    volume.remove("b")
    assert [each.name for each in volume.list("/")] == ["a"]
    assert volume.get_info("/").path == "/"


def test_mounted_in_two_sandboxes_at_once(server: RunningServer, volume: Volume) -> None:
    volume.write_file("from-api", "api")
    with (
        Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as one,
        Sandbox.create(volume_mounts={"/home/user/d": volume.name}, timeout=120) as two,
    ):
        assert one.commands.run("cat /data/from-api").stdout == "api"
        one.files.write("/data/from-one", "one", metadata={"kind": "note"})
        assert two.files.read("d/from-one") == "one"
        assert two.files.get_info("d/from-one").metadata == {"kind": "note"}
        two.commands.run("echo more >> d/from-one")
        assert volume.read_file("from-one") == "onemore\n"
        assert volume.get_info("from-one").uid == 1000
        assert one.get_info().volume_mounts == [{"name": volume.name, "path": "/data"}]
        volume.write_file("from-api", "new")
        assert two.commands.run("cat d/from-api").stdout == "new"
        with pytest.raises(VolumeException, match="in use"):
            Volume.destroy(volume.volume_id)
        assert volume.exists("from-one")
    # Both are gone; what they wrote is not.
    with Sandbox.create(volume_mounts={"/later": volume}, timeout=120) as three:
        assert three.commands.run("cat /later/from-one").stdout == "onemore\n"


def test_the_quota_holds(server: RunningServer, volume: Volume) -> None:
    with Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as sandbox:
        volume.write_file("kept", "before")
        sandbox.commands.run("head -c 100M /dev/zero > /data/big || true")
        with content(server, volume) as client:
            answer = client.put("/file", params={"path": "kept"}, content=b"x" * (8 << 20))
            assert answer.status_code == 507
            assert "full" in answer.json()["message"]
        with pytest.raises(VolumeException, match="full"):
            volume.write_file("kept", io.BytesIO(b"x" * (8 << 20)))
        # What was there is there still, and nothing else.
        assert volume.read_file("kept") == "before"
        assert [each.name for each in volume.list("/")] == ["big", "kept"]
        volume.remove("big")
        volume.write_file("kept", b"x" * (8 << 20))


def test_large_files_are_streamed(server: RunningServer, volume: Volume, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1 << 20) * 40)
    before = resident(server)
    with source.open("rb") as file:
        assert volume.write_file("large", file).size == 40 << 20
    position = 0
    with source.open("rb") as file:
        for piece in volume.read_file("large", format="stream"):
            assert file.read(len(piece)) == piece
            position += len(piece)
    assert position == 40 << 20
    assert resident(server) - before < 24 << 20


def test_of_a_file_that_is_only_asked_about_nothing_is_read(
    server: RunningServer, volume: Volume
) -> None:
    with Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as sandbox:
        sandbox.commands.run("truncate -s 1T /data/sparse")
        with content(server, volume) as client:
            answer = client.head("/file", params={"path": "sparse"})
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(1 << 40))
            # The connection is free for another request.
            assert client.get("/path", params={"path": "sparse"}).status_code == 200


def resident(server: RunningServer) -> int:
    """The server's memory, in bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def test_a_broken_off_upload_leaves_nothing(server: RunningServer, volume: Volume) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * (1 << 20)
        raise ConnectionError

    with content(server, volume) as client, pytest.raises(ConnectionError):
        client.put("/file", params={"path": "half"}, content=broken())
    deadline = time.monotonic() + 10
    while volume.list("/"):  # the server has yet to see that the client is gone
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Volume.destroy(volume.volume_id)


def test_nothing_leads_out_of_a_volume(server: RunningServer, volume: Volume) -> None:
    with Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as sandbox:
        sandbox.commands.run(
            """
            cd /data && mkdir inner && echo inside > inner/file
            ln -s /etc/passwd passwd; ln -s /etc etc; ln -s ../../../../etc/passwd up
            ln -s inner/file good; ln -s loop loop; ln -s / all; ln -s /proc/self/root proc
            mkfifo fifo; touch -- '-n' "$(printf 'b\\xffd')"
            python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
            touch -d '@99999999999' far; mkdir gone; ln -s gone/away dangling
            """
        )
        for path in ("passwd", "etc/passwd", "up", "loop", "all/etc/passwd", "proc/etc/passwd"):
            with pytest.raises(VolumeException):
                volume.read_file(path)
        assert volume.read_file("../../inner/../../inner/file") == "inside\n"
        assert volume.read_file("good") == "inside\n"
        for path in ("fifo", "sock"):
            with pytest.raises(VolumeException, match="not a file"):
                volume.read_file(path)
        listed = {each.name: each for each in volume.list("/", depth=10)}
        assert (listed["etc"].type, listed["etc"].target) == ("symlink", "/etc")
        assert listed["fifo"].type == "unknown"
        assert "passwd" in listed
        assert "hostname" not in listed
        for path in ("etc/new", "up/new", "all/tmp/new", "etc/deep/new"):
            with pytest.raises(VolumeException):
                volume.write_file(path, "x", force=True)
            with pytest.raises(VolumeException):
                volume.make_dir(path, force=True)
        with pytest.raises(VolumeException):
            volume.remove("etc/hostname")
        with pytest.raises(VolumeException):
            volume.update_metadata("etc/hostname", mode=0o777)
        # What is done to a symlink is done to itself.
        volume.update_metadata("passwd", uid=0)
        assert volume.get_info("passwd").uid == 0
        volume.write_file("passwd", "mine")
        assert volume.get_info("passwd").type == "file"
        volume.remove("etc")
        assert not volume.exists("etc")
        assert sandbox.commands.run("wc -l < /etc/passwd").stdout.strip() != "0"
        assert volume.exists("dangling")


def test_what_a_sandbox_does_keeps_no_request_waiting(volume: Volume) -> None:
    """A lease on a file, which makes others' opens wait for most of a minute."""
    with Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as sandbox:
        volume.write_file("file", "x")
        sandbox.commands.run(
            "exec python3 -c \"import fcntl, signal, sys; f = open('/data/file', 'a');"
            " signal.signal(signal.SIGIO, lambda *a: None);"
            " fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('held', flush=True);"
            ' import time; time.sleep(100)"',
            background=True,
        )
        sandbox.commands.run("until grep -q LEASE /proc/locks; do sleep 0.05; done; true")
        with pytest.raises(VolumeException, match="held or being changed"):
            volume.read_file("file")
        volume.write_file("file", "y")
        assert volume.read_file("file") == "y"


def test_a_volume_that_is_not_ready_keeps_nobody_else_waiting(
    server: RunningServer, volume: Volume
) -> None:
    """The kernel may take seconds to let go of one that a sandbox has filled before it ended."""
    with ThreadPoolExecutor(12) as threads:
        image = server.data_dir / f"isolation/volumes/{volume.volume_id}.img"
        with image.open("rb") as disk:
            fcntl.flock(disk, fcntl.LOCK_EX)  # which its device holds until then
            mounts: Any = {"/data": volume}
            waiting = [
                *(threads.submit(volume.list, "/") for _ in range(8)),
                *(threads.submit(Sandbox.create, volume_mounts=mounts) for _ in range(4)),
            ]
            with Sandbox.create(timeout=120) as sandbox:
                assert sandbox.commands.run("echo here").stdout == "here\n"
            assert not any(each.done() for each in waiting)
        assert [each.result() for each in waiting[:8]] == [[]] * 8
        for each in waiting[8:]:
            each.result().kill()


def test_deep_and_wide_trees_are_removed(volume: Volume) -> None:
    with Sandbox.create(volume_mounts={"/data": volume}, timeout=120) as sandbox:
        sandbox.commands.run(
            """
            python3 - <<'EOF'
import os
os.makedirs("/data/doomed/wide")
for number in range(1500):
    open(f"/data/doomed/wide/{number}", "w").close()
os.chdir("/data/doomed")
for number in range(1200):
    os.mkdir("deeper")
    os.mkdir("sibling")
    open("sibling/file", "w").close()
    os.chdir("deeper")
EOF
            ln -s / /data/doomed/all; chmod 000 /data/doomed
            """
        )
        volume.remove("doomed")
        assert volume.list("/") == []
        sandbox.commands.run("ls /usr/bin/env && touch /data/fine")


def test_keys_and_tokens(server: RunningServer, volume: Volume) -> None:
    other_key = server.atoll("keys", "create", "theirs", "--team", "strangers")
    stranger = other_key.stdout.strip()
    assert Volume.list(api_key=stranger) == []
    with pytest.raises(NotFoundException):
        Volume.get_info(volume.volume_id, api_key=stranger)
    assert not Volume.destroy(volume.volume_id, api_key=stranger)
    with pytest.raises(SandboxException, match="not found") as foreign:
        Sandbox.create(volume_mounts={"/data": volume.name}, api_key=stranger)
    with pytest.raises(SandboxException) as unknown:
        Sandbox.create(volume_mounts={"/data": volume.name[::-1]}, api_key=stranger)
    assert str(unknown.value).replace(volume.name[::-1], volume.name) == str(foreign.value)
    # The same name is another volume there.
    theirs = Volume.create(volume.name, api_key=stranger)
    theirs.write_file("file", "theirs")
    assert not volume.exists("file")
    for token in (theirs.token, "", "x", f"{volume.token}x", server.api_key, "ä"):
        answer = httpx.get(
            f"{server.url}/volumecontent/{volume.volume_id}/path?path=/",
            headers={b"Authorization": f"Bearer {token}".strip().encode()},
        )
        assert answer.status_code == 401
    # One that never was answers the same.
    with content(server, Volume("nosuchvolume", "x", "y")) as client:
        assert client.get("/path?path=/").status_code == 401
    assert httpx.get(f"{server.url}/volumecontent/{volume.volume_id}/path").status_code == 401
    Volume.destroy(theirs.volume_id, api_key=stranger)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/path", 400),
        ("GET", "/path?path=%00", 400),
        ("GET", f"/path?path={'a/' * 3000}", 400),
        ("GET", f"/path?path={'a' * 300}", 400),
        ("GET", "/dir?path=/&depth=-1", 400),
        ("GET", "/dir?path=/&depth=99999999999999999999", 400),
        ("POST", "/dir?path=a&mode=4096", 400),
        ("POST", "/dir?path=a&uid=65536", 400),
        ("POST", "/dir?path=a&uid=1e3", 400),
        ("POST", "/dir?path=a&force=maybe", 400),
        ("POST", "/dir?path=/", 409),
        ("PUT", "/file?path=/", 400),
        ("PUT", "/file?path=a/b", 404),
        ("PATCH", "/path?path=none", 404),
    ],
)
def test_bad_requests(
    server: RunningServer, volume: Volume, method: str, path: str, status: int
) -> None:
    with content(server, volume) as client:
        answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == status
    assert volume.list("/") == []


@pytest.mark.parametrize(
    "path", ["/", "data", "/proc/x", "/run/x", "/etc/x", "/usr", "/bin", "/lib/x", "/a/../b"]
)
def test_a_bad_mount_path_is_refused(volume: Volume, path: str) -> None:
    with pytest.raises(SandboxException, match=r"^400: "):
        Sandbox.create(volume_mounts={path: volume})
    assert Volume.destroy(volume.volume_id)


def test_a_team_has_only_so_many(server: RunningServer) -> None:
    key = server.atoll("keys", "create", "many", "--team", "crowd").stdout.strip()
    made = [Volume.create(f"v{number}", api_key=key) for number in range(MOST)]
    with pytest.raises(RateLimitException, match=f"{MOST} volumes"):
        Volume.create("more", api_key=key)
    Volume.destroy(made.pop().volume_id, api_key=key)
    made.append(Volume.create("more", api_key=key))
    assert [each.name for each in Volume.list(api_key=key)] == [each.name for each in made]
    for each in made:
        Volume.destroy(each.volume_id, api_key=key)


def test_kill_9_and_back(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0, volume_size_mb=SIZE_MB) as server:
        options: Any = {"api_url": server.url, "api_key": server.api_key}
        volume = Volume.create("kept", **options)
        idle = Volume.create("idle", **options)
        idle.write_file("file", "idle", api_url=server.url)
        sandbox = Sandbox.create(volume_mounts={"/data": volume}, timeout=300, **server.options)
        sandbox.commands.run("echo before > /data/file")
        writer = sandbox.commands.run(
            "while :; do date +%N >> /data/log; sync -d /data/log; done", background=True
        )
        volume.write_file("api", "x" * 100_000, api_url=server.url)
        server.kill()
        server.start(stop_sandboxes=True)
        # The sandbox has its mount still; the new server sees the very same files.
        assert sandbox.commands.run("echo after >> /data/file; cat /data/file").stdout == (
            "before\nafter\n"
        )
        assert volume.read_file("file", api_url=server.url) == "before\nafter\n"
        assert idle.read_file("file", api_url=server.url) == "idle"
        assert len(volume.read_file("api", api_url=server.url)) == 100_000
        assert sandbox.get_info().volume_mounts == [{"name": "kept", "path": "/data"}]
        with pytest.raises(VolumeException, match="in use"):
            Volume.destroy(volume.volume_id, **options)
        del writer
        server.stop()
        server.assert_nothing_left()
        # Without a sandbox, and after a proper end, it is all there.
        server.start(stop_sandboxes=True)
        assert volume.read_file("file", api_url=server.url) == "before\nafter\n"
        with Sandbox.create(volume_mounts={"/d": "kept"}, **server.options) as later:
            assert later.commands.run("tail -n 1 /d/file").stdout == "after\n"
        Volume.destroy(volume.volume_id, **options)
        server.stop()
    server.assert_nothing_left()
    assert server.atoll("clean").returncode == 0
    assert not list(tmp_path.rglob("*.img"))
    assert not (tmp_path / "volumes.key").exists()


async def test_async() -> None:
    volume = await AsyncVolume.create(new_name())
    try:
        assert volume.volume_id in [each.volume_id for each in await AsyncVolume.list()]
        assert (await AsyncVolume.get_info(volume.volume_id)).token == volume.token
        volume = await AsyncVolume.connect(volume.volume_id)
        await volume.write_file("dir/file", io.BytesIO(b"x" * 300_000), force=True)
        assert await volume.exists("dir/file")
        assert [each.path for each in await volume.list("/", depth=2)] == ["/dir", "/dir/file"]
        assert (await volume.make_dir("more")).type == "directory"
        assert (await volume.update_metadata("more", mode=0o700)).mode == 0o700
        assert (await volume.get_info("dir/file")).size == 300_000
        sandbox = await AsyncSandbox.create(volume_mounts={"/data": volume}, timeout=120)
        try:
            assert (await sandbox.commands.run("wc -c < /data/dir/file")).stdout == "300000\n"
        finally:
            await sandbox.kill()
        stream = await volume.read_file("dir/file", format="stream")
        assert sum([len(piece) async for piece in stream]) == 300_000
        await volume.remove("dir")
        assert not await volume.exists("dir/file")
    finally:
        assert await AsyncVolume.destroy(volume.volume_id)


def test_more_mounts_than_there_may_be(volume: Volume) -> None:
    mounts: dict[str, Volume | str] = {f"/d{number}": volume for number in range(17)}
    with pytest.raises(SandboxException, match="16 volumes"):
        Sandbox.create(volume_mounts=mounts)


def is_mounted(volume: Volume) -> bool:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if volume.volume_id in backing.read_text():
                return True
    return False


def test_the_server_stops_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    with run_server(tmp_path, pool_size=0, volume_size_mb=SIZE_MB) as server:
        options: Any = {"api_url": server.url, "api_key": server.api_key}
        volume = Volume.create("busy", **options)
        over = threading.Event()

        def dribble() -> Iterator[bytes]:
            yield b"x" * (1 << 20)
            over.wait(60)

        def upload() -> None:
            with content(server, volume) as client, contextlib.suppress(httpx.HTTPError):
                client.put("/file", params={"path": "half"}, content=dribble())

        uploading = threading.Thread(target=upload)
        uploading.start()
        deadline = time.monotonic() + 30
        while not is_mounted(volume):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(VolumeException, match="in use"):
            Volume.destroy(volume.volume_id, **options)
        assert server.stop() == 0
        over.set()
        uploading.join()
    server.assert_nothing_left()
