"""Operations on paths, as the requesting user."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from atoll.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    PathExists,
    PathNotFound,
    Unauthenticated,
)

from .conftest import Guest


def own(path: Path) -> Path:
    os.chown(path, 1000, 1000, follow_symlinks=False)
    return path


async def test_stat_of_a_file(guest: Guest) -> None:
    path = guest.home / "file.txt"
    path.write_text("hello")
    path.chmod(0o640)
    own(path)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    for name in ("file.txt", "~/file.txt", str(path), f"{guest.home}//x/../file.txt"):
        entry = await guest.client.stat(name, user="user")
        assert entry.name == "file.txt"
        assert entry.path == str(path)
        assert (entry.type, entry.size, entry.mode) == ("file", 5, 0o640)
        assert entry.permissions == "-rw-r-----"
        assert (entry.owner, entry.group) == ("user", "user")
        assert entry.modified_ns == 1_700_000_000_123_456_789
        assert (entry.is_symlink, entry.symlink_target, entry.metadata) == (False, None, {})


async def test_stat_of_other_things(guest: Guest) -> None:
    client = guest.client
    home = await client.stat("", user="user")
    assert (home.path, home.type, home.permissions) == (str(guest.home), "directory", "drwxr-xr-x")
    root = await client.stat("/", user="user")
    assert (root.name, root.path, root.type) == ("/", "/", "directory")
    assert (await client.stat(str(guest.common), user="user")).permissions == "dtrwxrwxrwx"
    assert (await client.stat("/dev/null", user="user")).type == "other"
    os.mkfifo(guest.home / "pipe")
    pipe = await client.stat("pipe", user="user")
    assert (pipe.type, pipe.permissions[0]) == ("other", "p")
    owned = guest.home / "numbered"
    owned.touch()
    os.chown(owned, 4242, 4343)
    numbered = await client.stat("numbered", user="user")
    assert (numbered.owner, numbered.group) == ("4242", "4343")


async def test_stat_of_symlinks(guest: Guest) -> None:
    target = guest.home / "target"
    target.write_text("12345")
    target.chmod(0o600)
    own(target)
    (guest.home / "one").symlink_to("target")
    (guest.home / "two").symlink_to("one")
    (guest.home / "folder").symlink_to("/etc")
    (guest.home / "broken").symlink_to("nowhere")
    (guest.home / "loop").symlink_to("loop")
    client = guest.client
    for name in ("one", "two"):
        entry = await client.stat(name, user="user")
        assert (entry.type, entry.is_symlink) == ("file", True)
        assert entry.symlink_target == str(target)
        assert entry.mode == 0o600
        assert entry.permissions == "Lrwxrwxrwx"
    folder = await client.stat("folder", user="user")
    assert (folder.type, folder.symlink_target) == ("directory", "/etc")
    broken = await client.stat("broken", user="user")
    assert (broken.type, broken.is_symlink) == ("symlink", True)
    assert broken.symlink_target == str(guest.home / "nowhere")
    assert (await client.stat("loop", user="user")).type == "symlink"


async def test_stat_errors(guest: Guest) -> None:
    client = guest.client
    with pytest.raises(PathNotFound, match="path '/missing' does not exist"):
        await client.stat("/missing", user="user")
    with pytest.raises(PathNotFound):
        await client.stat("/etc/passwd/x", user="user")
    with pytest.raises(Unauthenticated, match="invalid username: 'nobody-here'"):
        await client.stat("/", user="nobody-here")
    with pytest.raises(Unauthenticated, match="invalid username: 'numberless'"):
        await client.stat("/", user="numberless")
    with pytest.raises(InvalidInput, match="another user"):
        await client.stat("~root/x", user="user")
    with pytest.raises(InvalidInput, match="zero byte"):
        await client.stat("/a\0b", user="user")
    with pytest.raises(InvalidInput):
        await client.stat("/" + "x" * 5000, user="user")
    with pytest.raises(InvalidInput):
        await client.stat("/\ud800", user="user")
    with pytest.raises(PathNotFound):  # Also where the user may not look.
        await client.stat("/root/missing", user="user")


async def test_list(guest: Guest) -> None:
    for name in ("b/inner/deep", "a"):
        (guest.home / name).mkdir(parents=True)
    (guest.home / "b" / "file").touch()
    (guest.home / "link").symlink_to("b")
    client = guest.client

    async def names(path: str, depth: int) -> list[str]:
        entries = await client.list_dir(path, user="user", depth=depth)
        return [os.path.relpath(entry.path, guest.home) for entry in entries]

    assert await names("", 1) == await names("~", 0) == ["a", "b", "link"]
    assert await names(".", 2) == ["a", "b", "b/file", "b/inner", "link"]
    assert await names("b", 9) == ["b/file", "b/inner", "b/inner/deep"]
    assert await names("link", 1) == ["link/file", "link/inner"]
    assert await names("a", 1) == await names("a", 3) == []
    with pytest.raises(PathNotFound):
        await names("missing", 1)
    with pytest.raises(InvalidInput, match="not a directory"):
        await names("b/file", 1)
    with pytest.raises(Forbidden):
        await names("/root", 3)


async def test_list_of_many(guest: Guest) -> None:
    folder = guest.home / "many"
    folder.mkdir()
    for number in range(5000):
        (folder / f"{number:05}").touch()
    entries = await guest.client.list_dir("many", user="user")
    assert [entry.name for entry in entries] == [f"{n:05}" for n in range(5000)]


async def test_too_many_entries_are_refused(guest: Guest) -> None:
    from atoll.errors import Exhausted

    await guest.run("mkdir f && cd f && seq 100001 | xargs touch")
    with pytest.raises(Exhausted, match="100000 entries"):
        await guest.client.list_dir("f", user="user")


async def test_names_that_are_not_unicode(guest: Guest) -> None:
    os.mkdir(os.fsencode(guest.home) + b"/bad\xff")
    os.symlink(b"/\xfe", os.fsencode(guest.home) + b"/link")
    first, second = await guest.client.list_dir("", user="user", depth=2)
    assert first.name == "bad\ufffd"
    assert second.symlink_target == "/\ufffd"


async def test_make_dir(guest: Guest) -> None:
    entry = await guest.client.make_dir("a/b/c", user="user")
    assert (entry.path, entry.type) == (str(guest.home / "a/b/c"), "directory")
    for path in ("a", "a/b", "a/b/c"):
        info = (guest.home / path).stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1000, 1000, 0o755)
    with pytest.raises(PathExists, match="already exists"):
        await guest.client.make_dir("a/b", user="user")
    (guest.home / "file").touch()
    with pytest.raises(InvalidInput):
        await guest.client.make_dir("file", user="user")
    with pytest.raises(InvalidInput, match="not a directory"):
        await guest.client.make_dir("file/sub", user="user")
    with pytest.raises(Forbidden):
        await guest.client.make_dir("/etc/sub", user="user")


async def test_move(guest: Guest) -> None:
    client = guest.client
    (guest.home / "old").write_text("new content")
    own(guest.home / "old")
    entry = await client.move("old", "made/for/it", user="user")
    assert entry.path == str(guest.home / "made/for/it")
    assert (guest.home / "made/for/it").read_text() == "new content"
    assert (guest.home / "made/for").stat().st_uid == 1000
    (guest.home / "taken").write_text("replaced")
    await client.move("made/for/it", "taken", user="user")
    assert (guest.home / "taken").read_text() == "new content"
    with pytest.raises(PathNotFound, match="missing"):
        await client.move("missing", "x", user="user")
    (guest.home / "full/x").mkdir(parents=True)
    (guest.home / "dir").mkdir()
    with pytest.raises(PathExists, match="full"):
        await client.move("dir", "full", user="user")
    with pytest.raises(InvalidInput):
        await client.move("taken", "full", user="user")
    with pytest.raises(InvalidInput):
        await client.move("full", "full/x/y", user="user")
    with pytest.raises(Forbidden):
        await client.move("/usr/bin/env", "stolen", user="user")


async def test_move_to_another_file_system(guest: Guest) -> None:
    result = await guest.run(
        f"mkdir {guest.common}/other && mount -t tmpfs -o mode=1777 none {guest.common}/other",
        user="root",
    )
    assert result.end.exit_code == 0, result.stderr
    source = guest.home / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(os.urandom(300_000))
    (source / "sub" / "file").chmod(0o751)
    os.utime(source / "sub" / "file", ns=(5, 123456789))
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    with (source / "sparse").open("wb") as file:
        file.truncate(1_000_000_000)
        file.seek(500_000_000)
        file.write(b"middle")
    subprocess.run(["chown", "-R", "-h", "1000:1000", source], check=True)
    content = (source / "sub" / "file").read_bytes()
    inside = f"{guest.common}/other/new/place"
    entry = await guest.client.move("tree", inside, user="user")
    assert (entry.path, entry.type) == (inside, "directory")
    assert not source.exists()
    seen = Path(f"/proc/{guest.pid}/root{inside}")
    assert (seen / "sub" / "file").read_bytes() == content
    info = (seen / "sub" / "file").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o751, 1000)
    assert info.st_mtime_ns == 123456789
    assert os.readlink(seen / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((seen / "pipe").stat().st_mode)
    sparse = (seen / "sparse").stat()
    assert sparse.st_size == 1_000_000_000
    assert sparse.st_blocks * 512 < 1_000_000
    assert os.listdir(seen.parent) == ["place"]
    back = await guest.client.move(f"{inside}/sub/file", "file", user="user")
    assert back.size == 300_000
    assert (guest.home / "file").read_bytes() == content


async def test_a_move_across_that_fails_leaves_the_source_alone(guest: Guest) -> None:
    from atoll.errors import NoSpace

    small = f"{guest.common}/small"
    await guest.run(
        f"mkdir {small} && mount -t tmpfs -o mode=1777,size=1m none {small}", user="root"
    )
    (guest.home / "big").write_bytes(b"x" * 3_000_000)
    own(guest.home / "big")
    with pytest.raises(NoSpace):
        await guest.client.move("big", f"{small}/big", user="user")
    assert (guest.home / "big").stat().st_size == 3_000_000
    assert os.listdir(f"/proc/{guest.pid}/root{small}") == []


async def test_remove(guest: Guest) -> None:
    client = guest.client
    outside = guest.common / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = guest.home / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/file").touch()
    (tree / "a/link").symlink_to(outside)
    (guest.home / "direct").symlink_to(outside)
    subprocess.run(["chown", "-R", "-h", "1000:1000", tree], check=True)
    await client.remove("tree", user="user")
    assert not tree.exists()
    await client.remove("direct", user="user")
    assert sorted(os.listdir(guest.home)) == []
    assert (outside / "kept").exists()
    await client.remove("tree", user="user")
    await client.remove("/etc/passwd/x", user="user")
    with pytest.raises(InvalidInput):
        await client.remove("/", user="root")
    with pytest.raises(InvalidInput):
        await client.remove("/a/../", user="root")
    with pytest.raises(Forbidden):
        await client.remove("/usr/bin/env", user="user")


async def test_remove_goes_on_after_what_it_may_not_remove(guest: Guest) -> None:
    tree = guest.home / "tree"
    for name in ("a/x", "locked/y", "z/w"):
        (tree / name).mkdir(parents=True)
        own(tree / name)
        own(tree / name.split("/")[0])
    own(tree)
    os.chown(tree / "locked", 0, 0)
    with pytest.raises(Forbidden):
        await guest.client.remove("tree", user="user")
    assert sorted(os.listdir(tree)) == ["locked"]


async def test_remove_of_a_very_deep_tree(guest: Guest) -> None:
    made = await guest.run(
        'python3 -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\''
    )
    assert made.end.exit_code == 0, made.stderr
    await guest.client.remove("d", user="user")
    assert os.listdir(guest.home) == []


async def test_paths_of_root_stay_closed(guest: Guest) -> None:
    secret = guest.home.parent / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("no")
    (guest.home / "way").symlink_to(secret)
    client = guest.client
    for path in (f"{secret}/file", "way/file", f"/proc/1/root{secret}/file"):
        # That it is there is no secret, as on E2B, whose agent is root when it is asked.
        assert (await client.stat(path, user="user")).size == 2
        with pytest.raises((Forbidden, NotFound)):
            await client.read_file(path, user="user")
        with contextlib.suppress(Forbidden):  # What is not there for the user is removed already.
            await client.remove(path, user="user")
    assert (secret / "file").read_text() == "no"


async def test_metadata_is_read(guest: Guest) -> None:
    path = guest.home / "file"
    path.touch()
    os.setxattr(path, "user.e2b.purpose", b"test")
    os.setxattr(path, "user.e2b.bytes", b"\xff")
    os.setxattr(path, "user.other", b"hidden")
    entry = await guest.client.stat("file", user="user")
    assert entry.metadata == {"purpose": "test", "bytes": "\ufffd"}
    (listed,) = await guest.client.list_dir("", user="user")
    assert listed == entry
    assert (await guest.client.move("file", "moved", user="user")).metadata == entry.metadata


@pytest.mark.parametrize("size", [1, 300])
async def test_much_metadata_hides_nothing_else(guest: Guest, size: int) -> None:
    """More than an upload may give, on a file system that takes it."""
    folder = Path("/dev/shm") / guest.home.parent.name
    folder.mkdir(mode=0o755)
    try:
        (folder / "file").touch()
        written = {f"{n:04}": "x" * size for n in range(200)}
        try:
            for name, value in written.items():
                os.setxattr(folder / "file", f"user.e2b.{name}", value.encode())
        except OSError:
            pytest.skip("this kernel's tmpfs takes no attributes of users")
        (folder / "other").touch()
        listed = await guest.client.list_dir(str(folder), user="user")
        assert [each.name for each in listed] == ["file", "other"]
        told = listed[0].metadata
        assert told == dict(list(written.items())[: len(told)])
        assert len(told) == (200 if size == 1 else 16 * 1024 // (13 + size))
    finally:
        shutil.rmtree(folder)


async def test_a_listing_of_long_paths(guest: Guest) -> None:
    """One message would be larger than the host takes."""
    deep = "/".join(["d" * 250] * 14)
    await guest.run(f"mkdir -p {deep}; cd {deep} && touch $(seq 100)")
    assert len(await guest.client.list_dir(deep, user="user")) == 100
    assert len(await guest.client.list_dir(".", user="user", depth=20)) == 114


async def test_compose(guest: Guest) -> None:
    home, client = guest.home, guest.client
    (home / "a").write_bytes(b"a" * 100_000)
    (home / "b").write_bytes(b"b")
    (home / "c").touch()
    for name in "abc":
        os.chown(home / name, 1000, 1000)
    entry = await client.compose(["a", "b", "c", "b"], "new/all", user="user")
    assert (entry.path, entry.size, entry.owner) == (str(home / "new" / "all"), 100_002, "user")
    assert entry.permissions == "-rw-r--r--"
    assert (home / "new" / "all").read_bytes() == b"a" * 100_000 + b"bb"
    assert sorted(os.listdir(home)) == ["new"]


async def test_compose_takes_the_place_when_it_is_complete(guest: Guest) -> None:
    home, client = guest.home, guest.client
    (home / "all").write_text("before")
    (home / "a").write_text("a")
    (home / "folder").mkdir()
    secret = home / "secret"
    secret.write_text("no")
    secret.chmod(0o600)
    for error, sources, destination in (
        (PathNotFound, ["a", "missing"], "all"),
        (InvalidInput, ["a", "folder"], "all"),
        (InvalidInput, ["a", "all"], "all"),
        (InvalidInput, [], "all"),
        (InvalidInput, ["a"], "folder"),
        (InvalidInput, ["/dev/zero"], "all"),
        (Forbidden, ["a", "secret"], "all"),
        (Forbidden, ["a"], "/root/all"),
    ):
        with pytest.raises(error):
            await client.compose(sources, destination, user="user")
        assert (home / "all").read_text() == "before"
        assert sorted(os.listdir(home)) == ["a", "all", "folder", "secret"]
    await client.compose(["a"], "all", user="user")
    assert (home / "all").read_text() == "a"


async def test_configure(guest: Guest) -> None:
    victim = guest.common / "victim"
    victim.write_text("untouched")
    (guest.common / "link").symlink_to(victim)
    (guest.common / "plain").write_text("old")
    base = str(guest.common)
    files = {f"{base}/link": "a\n", f"{base}/plain": "b\n", f"{base}/new/deep/file": "ü\n"}
    await guest.client.configure(files)
    for path, text in files.items():
        assert Path(path).read_text() == text
        info = os.lstat(path)
        assert stat.S_ISREG(info.st_mode)
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o644)
    assert victim.read_text() == "untouched"
    assert sorted(os.listdir(guest.common)) == ["link", "new", "plain", "victim"]
    with pytest.raises(InvalidInput):
        await guest.client.configure({"relative": "x"})
    with pytest.raises(InvalidInput):
        await guest.client.configure({f"{base}/new": "a directory"})


async def test_configure_writes_to_a_mount_point(guest: Guest) -> None:
    # /etc/passwd is bind-mounted in this guest; the change is seen by the next request.
    accounts = Path(f"/proc/{guest.pid}/root/etc/passwd").read_text()
    await guest.client.configure({"/etc/passwd": accounts + "late:x:1234:1234::/:/bin/sh\n"})
    assert (await guest.run("id -u", user="late")).stdout == b"1234\n"
