"""The content of files, in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.errors import Forbidden, InvalidInput, NoSpace, PathNotFound, Unauthenticated

from .conftest import Guest, until
from .test_processes import private_bytes


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(guest: Guest, path: str, user: str = "user", **window: int) -> bytes:
    async with await guest.client.read_file(path, user=user, **window) as reader:
        return b"".join([part async for part in reader])


async def test_write_and_read(guest: Guest) -> None:
    entry = await guest.client.write_file("a/b/file", user="user", chunks=chunks(b"one ", b"two"))
    path = guest.home / "a/b/file"
    assert (entry.name, entry.path, entry.type, entry.size) == ("file", str(path), "file", 7)
    assert (entry.permissions, entry.owner, entry.group) == ("-rw-r--r--", "user", "user")
    assert path.read_bytes() == b"one two"
    for folder in (path.parent, path.parent.parent):
        info = folder.stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1000, 1000, 0o755)
    reader = await guest.client.read_file("~/a/b/file", user="user")
    assert reader.entry == entry
    assert [part async for part in reader] == [b"one two"]
    with pytest.raises(StopAsyncIteration):
        await anext(reader)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 262144, 262145, 524288, 1_000_003])
async def test_sizes_at_the_edges(guest: Guest, size: int) -> None:
    data = os.urandom(size)
    entry = await guest.client.write_file("f", user="user", chunks=chunks(data))
    assert entry.size == size
    assert (guest.home / "f").read_bytes() == data
    assert await read(guest, "f") == data


async def test_parts_of_a_file(guest: Guest) -> None:
    (guest.home / "f").write_bytes(bytes(range(256)) * 4096)
    whole = (guest.home / "f").read_bytes()
    for offset, length in ((0, 10), (5, 300_000), (1_048_570, 100), (2_000_000, 5), (7, 0)):
        assert await read(guest, "f", offset=offset, length=length) == whole[offset:][:length]
    assert await read(guest, "f", offset=1_048_000) == whole[1_048_000:]


async def test_files_that_claim_to_be_empty(guest: Guest) -> None:
    assert b"Linux" in await read(guest, "/proc/version")
    many = await read(guest, "/proc/kallsyms")
    assert len(many) > 200_000
    assert many.endswith(b"\n")


async def test_an_existing_file_keeps_what_it_is(guest: Guest) -> None:
    path = guest.common / "shared"
    path.write_text("long old content")
    path.chmod(0o666)
    other = guest.common / "other name"
    other.hardlink_to(path)
    inode = path.stat().st_ino
    await guest.client.write_file(str(path), user="user", chunks=chunks(b"new"))
    info = path.stat()
    assert other.read_bytes() == b"new"
    assert (info.st_ino, info.st_uid, stat.S_IMODE(info.st_mode)) == (inode, 0, 0o666)


async def test_a_symlink_is_written_through(guest: Guest) -> None:
    (guest.home / "real").touch()
    os.chown(guest.home / "real", 1000, 1000)
    (guest.home / "link").symlink_to("real")
    (guest.home / "dangling").symlink_to("made")
    for name, target in (("link", "real"), ("dangling", "made")):
        await guest.client.write_file(name, user="user", chunks=chunks(b"x"))
        assert (guest.home / name).is_symlink()
        assert (guest.home / target).read_bytes() == b"x"


async def test_set_uid_does_not_survive_being_overwritten(guest: Guest) -> None:
    path = guest.common / "tool"
    path.touch()
    path.chmod(0o4777)
    await guest.client.write_file(str(path), user="user", chunks=chunks(b"evil"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


async def test_what_cannot_be_read_or_written(guest: Guest) -> None:
    client = guest.client
    os.mkfifo(guest.home / "pipe")
    os.chown(guest.home / "pipe", 1000, 1000)
    (guest.home / "file").touch()
    (guest.common / "roots").touch()
    (guest.common / "secret").touch(mode=0o600)

    async def write(path: str, user: str = "user") -> None:
        await client.write_file(path, user=user, chunks=chunks(b"x" * 10))

    with pytest.raises(PathNotFound, match="path '/missing' does not exist"):
        await read(guest, "/missing")
    with pytest.raises(PathNotFound):
        await read(guest, "file/x")
    for path in ("/etc", ""):
        with pytest.raises(InvalidInput, match="is a directory"):
            await read(guest, path)
        with pytest.raises(InvalidInput, match="is a directory"):
            await write(path, "root")
    for path in (f"{guest.home}/pipe", "/dev/null", "/dev/tty", "/dev/ptmx"):
        with pytest.raises(InvalidInput, match="is not a regular file"):
            await read(guest, path, "root")
        with pytest.raises(InvalidInput, match="is not a regular file"):
            await write(path, "root")
    with pytest.raises(Forbidden):
        await read(guest, f"{guest.common}/secret")
    with pytest.raises(Forbidden):
        await write(f"{guest.common}/roots")
    with pytest.raises(Forbidden):
        await write("/etc/new")
    with pytest.raises(InvalidInput):
        await write("file/below")
    with pytest.raises(Unauthenticated):
        await write("x", "who")
    assert (await client.stat("file", user="user")).type == "file"


async def test_metadata_is_replaced(guest: Guest) -> None:
    client = guest.client
    first = await client.write_file(
        "f", user="user", chunks=chunks(b"1"), metadata={"a": "1", "b": "two words"}
    )
    assert first.metadata == {"a": "1", "b": "two words"}
    os.setxattr(guest.home / "f", "user.kept", b"k")
    second = await client.write_file("f", user="user", chunks=chunks(b"2"), metadata={"c": "3"})
    assert second.metadata == {"c": "3"}
    assert (await client.write_file("f", user="user", chunks=chunks(b"3"))).metadata == {}
    assert os.listxattr(guest.home / "f") == ["user.kept"]
    with pytest.raises((InvalidInput, NoSpace)):
        await client.write_file("g", user="user", chunks=chunks(b"3"), metadata={"k": "v" * 70_000})
    assert not (guest.home / "g").exists()


async def test_a_hundred_megabytes_there_and_back(guest: Guest) -> None:
    block = os.urandom(1024 * 1024)
    sent = hashlib.sha256(block * 100).digest()

    async def source() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield block

    before = private_bytes(guest.pid)
    entry = await guest.client.write_file("big", user="user", chunks=source())
    assert entry.size == 100 * 1024 * 1024
    received = hashlib.sha256()
    async for part in await guest.client.read_file("big", user="user"):
        received.update(part)
    assert received.digest() == sent
    assert private_bytes(guest.pid) - before < 3 * 1024 * 1024


async def test_a_reader_that_waits_costs_nothing(guest: Guest) -> None:
    with (guest.home / "huge").open("wb") as file:
        file.truncate(10**12)
    before = private_bytes(guest.pid)
    readers = [await guest.client.read_file("huge", user="user") for _ in range(4)]
    await asyncio.sleep(0.3)
    assert private_bytes(guest.pid) - before < 3 * 1024 * 1024
    assert (await guest.run("echo fine")).stdout == b"fine\n"
    for reader in readers:
        await reader.close()


async def full_disk(guest: Guest) -> str:
    folder = f"{guest.common}/full"
    result = await guest.run(
        f"mkdir {folder} && mount -t tmpfs -o mode=1777,size=4m none {folder}", user="root"
    )
    assert result.end.exit_code == 0
    return folder


async def test_a_full_disk_is_told_while_sending(guest: Guest) -> None:
    folder = await full_disk(guest)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            assert sent < 500, "the writer was never told"
            yield b"x" * 1_000_000

    with pytest.raises(NoSpace, match="not enough disk space"):
        await guest.client.write_file(f"{folder}/new", user="user", chunks=endless())
    assert os.listdir(f"/proc/{guest.pid}/root{folder}") == [], "nothing half-written stays"
    await guest.client.write_file(f"{folder}/old", user="user", chunks=chunks(b"old"))
    sent = 0
    with pytest.raises(NoSpace, match="incomplete"):
        await guest.client.write_file(f"{folder}/old", user="user", chunks=endless())
    assert os.listdir(f"/proc/{guest.pid}/root{folder}") == ["old"]
    # The same connection goes on to serve.
    assert (await guest.client.stat("~", user="user")).type == "directory"


async def test_an_upload_that_breaks_off_leaves_nothing(guest: Guest) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        await until((guest.home / "new").exists)
        raise ConnectionResetError("the uploader went away")

    with pytest.raises(ConnectionResetError):
        await guest.client.write_file("new", user="user", chunks=breaking())
    await until(lambda: not (guest.home / "new").exists())


async def test_a_cancelled_upload_leaves_nothing(guest: Guest) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        await asyncio.sleep(60)

    upload = asyncio.ensure_future(guest.client.write_file("new", user="user", chunks=stuck()))
    await until((guest.home / "new").exists)
    upload.cancel()
    await asyncio.wait([upload])
    await until(lambda: not (guest.home / "new").exists())


async def test_a_file_that_was_moved_during_the_upload_stays(guest: Guest) -> None:
    async def moving() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await until((guest.home / "new").exists)
        (guest.home / "new").rename(guest.home / "mine")
        (guest.home / "new").write_text("another's")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await guest.client.write_file("new", user="user", chunks=moving())
    await asyncio.sleep(0.1)
    assert (guest.home / "new").read_text() == "another's"


async def test_many_transfers_at_once(guest: Guest) -> None:
    async def one(number: int) -> None:
        data = os.urandom(500_000 + number)
        await guest.client.write_file(f"f{number}", user="user", chunks=chunks(data))
        assert await read(guest, f"f{number}") == data

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_file_that_shrinks_while_it_is_read(guest: Guest) -> None:
    path: Path = guest.home / "f"
    path.write_bytes(b"x" * 20_000_000)
    reader = await guest.client.read_file("f", user="user")
    seen = len(await anext(reader))
    os.truncate(path, 1)
    async for part in reader:
        seen += len(part)
    assert seen < 20_000_000
