"""Archives of strangers: what they may do, and what they may not."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from atoll.errors import InvalidInput
from atoll.isolation.bundle import ID_BASE
from atoll.templates.images.unpacking import unpack_layer
from tests.images.making import LayerMaker

MOST = 8 << 20


async def unpack(
    directory: Path, archive: bytes, *below: Path, name: str = "root", most: int = MOST
) -> Path:
    """Unpack below a directory; returns the layer."""
    (directory / "archive").write_bytes(archive)
    root = directory / name
    await unpack_layer(directory / "archive", root, below=below, most_bytes=most)
    return root


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid - ID_BASE, status.st_gid - ID_BASE


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


async def test_files_are_as_the_archive_says(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
    maker = LayerMaker().directory("bin", 0o711, uid=5, gid=6, mtime=1000)
    maker.add("./bin/su", b"x" * 3000, mode=0o4755, uid=0, gid=7, mtime=2000)
    maker.add(
        "bin/ping",
        b"p",
        mode=0o755,
        pax_headers={
            "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.user.mine": "kept",
        },
    )
    maker.link("bin/also", "bin/su", hard=True).link("bin/far", "/etc/../../passwd")
    maker.add("bin/pipe", type=tarfile.FIFOTYPE).add("ünï ", b"").add("a" * 255, b"")
    root = await unpack(tmp_path, maker.finish())
    su = (root / "bin/su").stat()
    assert (su.st_mode & 0o7777, su.st_size, su.st_nlink, su.st_mtime) == (0o4755, 3000, 2, 2000)
    assert owner(root / "bin/su") == (0, 7)
    assert owner(root / "bin") == (5, 6)
    assert (root / "bin").stat().st_mtime == 1000
    assert os.readlink(root / "bin/far") == "/etc/../../passwd"
    assert stat.S_ISFIFO((root / "bin/pipe").lstat().st_mode)
    assert {"ünï ", "a" * 255} < set(os.listdir(root))
    ping = root / "bin/ping"
    assert set(os.listxattr(ping)) == {"security.capability", "user.mine"}
    # Good for the sandboxes' root alone.
    assert int.from_bytes(os.getxattr(ping, "security.capability")[20:], "little") == ID_BASE


@pytest.mark.parametrize("form", ["plain", "gzip", "two gzip members", "zstd"])
async def test_compressions(tmp_path: Path, form: str) -> None:
    plain = LayerMaker().add("file", os.urandom(100_000)).finish()
    archive = {
        "plain": plain,
        "gzip": gzip.compress(plain),
        "two gzip members": gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]),
        "zstd": zstandard.compress(plain),
    }[form]
    root = await unpack(tmp_path, archive)
    assert (root / "file").stat().st_size == 100_000


async def test_what_a_layer_hides(tmp_path: Path) -> None:
    lower = (
        LayerMaker()
        .directory("etc", 0o750, uid=3, gid=4)
        .directory("etc/sub", 0o700)
        .add("etc/gone", b"1")
        .add("etc/sub/old", b"2")
        .directory("other")
        .add("other/x", b"3")
        .finish()
    )
    upper = (
        LayerMaker()
        .add("etc/.wh.gone")
        .add("etc/sub/.wh..wh..opq")
        .add("etc/sub/new", b"4")
        .add("other/y", b"5")
        .add(".wh..wh.plnk", b"what aufs left")
        .finish()
    )
    below = await unpack(tmp_path, lower, name="lower")
    above = await unpack(tmp_path, upper, below, name="upper")
    assert is_whiteout(above / "etc/gone")
    assert os.getxattr(above / "etc/sub", "trusted.overlay.opaque") == b"y"
    # A directory that the layer only passes through stays as it was.
    assert owner(above / "etc") == (3, 4)
    assert stat.S_IMODE((above / "etc").stat().st_mode) == 0o750
    merged = tmp_path / "merged"
    merged.mkdir()
    script = f"mount -t overlay o -o lowerdir={above}:{below} {merged} && find {merged} | sort"
    listing = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    names = [line.removeprefix(f"{merged}/") for line in listing[1:]]
    assert names == ["etc", "etc/sub", "etc/sub/new", "other", "other/x", "other/y"]


async def test_hidden_and_made_anew(tmp_path: Path) -> None:
    """The mark in the archive is about what is below, wherever it stands in it."""
    maker = LayerMaker().add(".wh.d").add(".wh.f").directory("d").add("d/in", b"").add("f", b"new")
    root = await unpack(tmp_path, maker.finish())
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"
    assert (root / "f").read_bytes() == b"new"


async def test_later_entries_replace_earlier_ones(tmp_path: Path) -> None:
    maker = LayerMaker().add("f", b"first").add("f", b"second").link("l", "f").directory("l")
    maker.add("l/in", b"")
    root = await unpack(tmp_path, maker.finish())
    assert (root / "f").read_bytes() == b"second"
    assert (root / "l/in").exists()


async def test_devices_below_dev_are_left_out(tmp_path: Path) -> None:
    maker = LayerMaker().directory("dev").add("dev/sda", type=tarfile.BLKTYPE, devmajor=8)
    root = await unpack(tmp_path, maker.finish())
    assert os.listdir(root / "dev") == []


HOSTILE = {
    "up and out": (LayerMaker().add("../out", b"x"), "leads out"),
    "up in the middle": (LayerMaker().add("a/../../out", b"x"), "leads out"),
    "absolute": (LayerMaker().add("/tmp/atoll-out", b"x"), "absolute"),
    "through a link": (
        LayerMaker().link("l", "/tmp").add("l/atoll-out", b"x"),
        "no.*directory|none",
    ),
    "through a link up": (LayerMaker().link("l", "..").directory("l/x"), "none"),
    "hard link out": (LayerMaker().link("l", "../../etc/shadow", hard=True), "leads out"),
    "hard link to the host": (LayerMaker().link("l", "/etc/shadow", hard=True), "absolute"),
    "hard link through a link": (
        LayerMaker().link("e", "/etc").link("l", "e/shadow", hard=True),
        "none",
    ),
    "hard link to nothing": (LayerMaker().link("l", "nothing", hard=True), "not in the layer"),
    "hard link to a directory": (
        LayerMaker().directory("d").link("l", "d", hard=True),
        "directory",
    ),
    "a device": (LayerMaker().add("sda", type=tarfile.BLKTYPE, devmajor=8), "device"),
    "a forged mark": (LayerMaker().add("null", type=tarfile.CHRTYPE), "device"),
    "a directory replaced": (LayerMaker().directory("d").add("d", b"x"), "something else"),
    "the root replaced": (LayerMaker().add(".", b"x"), "root"),
    "hiding itself": (LayerMaker().add("d/.wh..", b""), "hides nothing"),
    "hiding what is above": (LayerMaker().add("d/.wh...", b""), "hides nothing"),
    "ids beyond": (LayerMaker().add("f", uid=70_000), "beyond"),
    "ids far beyond": (LayerMaker().add("f", uid=2**32 + 1000), "beyond"),
    "a name too long": (LayerMaker().add("a" * 256, b""), "impossible"),
    "too deep": (LayerMaker().add("a/" * 300 + "b", b""), "too long"),
    "too much": (LayerMaker().add("zeros", bytes(MOST + 1)), "more in it"),
    "many that are too much": (
        LayerMaker().add("a", bytes(MOST // 2)).add("b", bytes(MOST // 2 + 1)),
        "more in it",
    ),
    "a kind that nobody knows": (LayerMaker().add("f", type=b"Z"), "unknown kind"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_refused(tmp_path: Path, name: str) -> None:
    maker, reason = HOSTILE[name]
    outside = Path("/tmp/atoll-out")
    with pytest.raises(InvalidInput, match=reason):
        await unpack(tmp_path, maker.finish())
    assert not outside.exists()
    assert set(os.listdir(tmp_path)) == {"archive", "root"}


async def test_a_small_archive_of_much(tmp_path: Path) -> None:
    """A gigabyte of zeros is a megabyte, or less."""
    squeezed = io.BytesIO()
    with gzip.GzipFile(fileobj=squeezed, mode="wb", compresslevel=9) as packed:
        info = tarfile.TarInfo("zeros")
        info.size = 1 << 30
        packed.write(info.tobuf())
        for _ in range(64):
            packed.write(bytes(1 << 20))
    with pytest.raises(InvalidInput, match="more in it"):
        await unpack(tmp_path, squeezed.getvalue())
    assert (
        not (tmp_path / "root/zeros").exists() or (tmp_path / "root/zeros").stat().st_size <= MOST
    )


async def test_padding_without_end(tmp_path: Path) -> None:
    archive = zstandard.compress(LayerMaker().finish() + bytes(MOST + (2 << 20)))
    with pytest.raises(InvalidInput, match="more in it"):
        await unpack(tmp_path, archive)


async def test_a_header_that_wants_all_memory(tmp_path: Path) -> None:
    """An extended header is read whole: its size is what the archive says."""
    header = tarfile.TarInfo("./PaxHeaders/x")
    header.type, header.size = tarfile.XHDTYPE, 6 << 30
    with pytest.raises(InvalidInput):
        await unpack(tmp_path, header.tobuf() + bytes(4096))


async def test_a_hole_as_large_as_the_world(tmp_path: Path) -> None:
    info = tarfile.TarInfo("hole")
    info.type, info.size = tarfile.REGTYPE, 0
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(1 << 60),
    }
    archive = info.tobuf(format=tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024)
    with pytest.raises(InvalidInput):
        await unpack(tmp_path, archive)


@pytest.mark.parametrize(
    "content", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08garbage", b"\x28\xb5\x2f\xfdx"]
)
async def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    if not content:
        assert os.listdir(await unpack(tmp_path, content)) == []
        return
    with pytest.raises(InvalidInput):
        await unpack(tmp_path, content)


async def test_cut_off(tmp_path: Path) -> None:
    archive = gzip.compress(LayerMaker().add("f", os.urandom(200_000)).finish())
    with pytest.raises(InvalidInput):
        await unpack(tmp_path, archive[: len(archive) // 2])


def test_the_fence_holds(tmp_path: Path) -> None:
    """What runs in it can reach nothing, whatever it tries."""
    program = """
import os, socket, sys
from pathlib import Path
from atoll.templates.images.fence import run_fenced

def work():
    def tried(act):
        try:
            act()
        except OSError as error:
            return error.errno
        return "done"
    found = [os.getpid(), sorted(os.listdir("/")), os.getuid()]
    found.append(tried(lambda: os.kill(int(sys.argv[2]), 0)))
    found.append(tried(lambda: os.mknod("/disk", 0o060600, os.makedev(7, 0))))
    found.append(tried(lambda: os.chroot("/sub")))
    found.append(tried(lambda: socket.socket().connect(("127.0.0.1", 1))))
    found.append(os.listdir("/sub/../.."))
    print(found)

sys.exit(run_fenced(Path(sys.argv[1]), work))
"""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    os.chown(root, ID_BASE, ID_BASE)
    done = subprocess.run(
        [sys.executable, "-c", program, str(root), str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[1, ['sub'], 0, 3, 1, 1, 101, ['sub']]"
